"""A verdict that no message can carry is replaced, not published in vain again and again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import pytest

from services.validator.sealing_epoch import CurrentEpoch
from services.validator.usecases import MAX_HEADER_BYTES, JudgingUseCases
from shared import catalogue
from shared.clock import Clock
from shared.contracts.findings import Code
from shared.contracts.judging import CheckCertificate, Verdict
from shared.messages import Outgoing, StreamPosition
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from tests.integration.validator.test_worker_pool import SEALING, SECRETS, request
from tests.support.pki import NOW

pytestmark = pytest.mark.asyncio


class Epoch:
    def key(self) -> object:
        return SEALING


class Stopped:
    def now(self) -> datetime:
        return NOW


class Published(list[Outgoing]):
    async def publish(self, message: Outgoing) -> int:
        self.append(message)
        return len(self)


def judging(published: Published, room: int) -> JudgingUseCases:
    return JudgingUseCases(
        SECRETS,
        None,
        1,
        cast(CurrentEpoch, Epoch()),
        cast(Publisher, published),
        cast(Clock, Stopped()),
        room,
    )


def delivery(body: bytes) -> Delivery:
    return Delivery.of(catalogue.JUDGE_SUBMISSION, body, {}, StreamPosition("JUDGING", 1, NOW))


@pytest.mark.parametrize(
    ("room", "codes"), [(1 << 20, None), (MAX_HEADER_BYTES + 300, [Code.CERTIFICATE_UNJUDGEABLE])]
)
async def test_a_verdict_that_no_message_can_carry_is_unjudgeable(
    room: int, codes: list[Code] | None
) -> None:
    published = Published()
    use_cases = judging(published, room)
    await use_cases.start()
    try:
        await use_cases.judge_submission(delivery(request().encode()), cast(Pull, None))
        verdict = Verdict.model_validate_json(published[0].body)
        found = [f.code for f in verdict.findings]
        assert Code.CERTIFICATE_UNJUDGEABLE not in found if codes is None else found == codes
        assert list(verdict.accepted) == ["www.example.com"]
        asked: dict[str, Any] = request().model_dump(
            include={"submission_id", "account", "domains", "pairs"}
        )
        report = await use_cases.check_certificate(CheckCertificate(**asked, private_roots=[]))
        assert report.findings[0].code is (Code.CHAIN_UNTRUSTED if codes is None else codes[0])
    finally:
        await use_cases.close()
