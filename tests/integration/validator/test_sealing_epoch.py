"""The epoch that the validator seals to: edge_sync's latest message while it is fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

from services.validator.sealing_epoch import CONDITION, CurrentEpoch
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.commands import EpochKey, TrustDocument, TrustedKey
from shared.contracts.edge import SealingEpoch
from shared.crypto.sealing import PrivateKey
from shared.crypto.signing import OPERATOR_KEY_ID, Purpose, Signer, Trust
from shared.errors import Transient
from shared.observability.health import Health
from tests.support.backend import Backend, backend
from tests.support.waiting import until

STALE = 1.5


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(tmp_path_factory.mktemp("epochs"), ()) as made:
        yield made


@dataclass
class Fleet:
    """The operator and edge_sync, and the bucket as an attacker in the broker could write it."""

    broker: Client
    validator: Client
    operator: Signer = field(default_factory=lambda: Signer.generate(OPERATOR_KEY_ID))
    edge_sync: Signer = field(default_factory=lambda: Signer.generate("edge_sync-1"))

    def trust(self) -> Trust:
        now = datetime.now(UTC)
        key = TrustedKey(
            purpose="edge_sync",
            key_id=self.edge_sync.key_id,
            public_key=self.edge_sync.public_text(),
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=1),
        )
        document = TrustDocument(serial=1, keys=[key], issued_at=now)
        return Trust.read(
            self.operator.public_text(), self.operator.sign(Purpose.TRUST, document), now
        )

    async def start(self, epoch: int) -> None:
        key = EpochKey(
            epoch=epoch, public_key=PrivateKey.generate().public().text, issued_at=datetime.now(UTC)
        )
        await self.put(s.keyring_epoch(epoch), self.operator.sign(Purpose.EPOCH, key))

    def message(self, epoch: int, age: float = 0) -> Signed:
        at = datetime.now(UTC) - timedelta(seconds=age)
        return self.edge_sync.sign(Purpose.SEALING, SealingEpoch(epoch=epoch, at=at))

    async def put(self, key: str, body: Signed) -> None:
        await self.broker.jetstream(timeout=5).publish(
            s.kv_subject(s.BUCKET_KEYRINGS, key), body.encode()
        )

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[tuple[CurrentEpoch, Health]]:
        """Run a freshly started validator."""
        health = Health()
        epoch = CurrentEpoch(self.validator, self.trust(), health, stale_after=STALE)
        task = asyncio.create_task(epoch.watch())
        yield epoch, health
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def fleet(rig: Backend) -> Fleet:
    return Fleet(await rig.client("edge_sync"), await rig.client("validator"))


def known(epoch: CurrentEpoch) -> int | None:
    try:
        return epoch.key().epoch
    except Transient:
        return None


async def test_an_epoch_message_counts_while_it_is_fresh_and_a_repetition_renews_it(
    fleet: Fleet,
) -> None:
    await fleet.start(1)
    async with fleet.watching() as (epoch, health):
        await fleet.put(s.KEYRING_SEALING, fleet.message(1))
        await until(lambda: known(epoch) == 1 and not health.missing, "it is known")
        for _ in range(3):
            await asyncio.sleep(STALE / 2)
            await fleet.put(s.KEYRING_SEALING, fleet.message(1))
        await until(lambda: known(epoch) == 1 and not health.missing, "it is still known")
        await until(
            lambda: CONDITION in health.missing, "edge_sync is silent, and no epoch is known"
        )
        with pytest.raises(
            Transient, match=r"edge_sync's message that 1 is the epoch to seal to is \d+ s old"
        ):
            epoch.key()
        await fleet.put(s.KEYRING_SEALING, fleet.message(1))
        await until(lambda: known(epoch) == 1 and not health.missing, "edge_sync publishes again")


async def test_an_old_epoch_message_does_not_count_after_a_restart(fleet: Fleet) -> None:
    await fleet.start(1)
    await fleet.start(2)
    await fleet.put(s.KEYRING_SEALING, fleet.message(1, age=STALE + 1))
    async with fleet.watching() as (epoch, health):
        await until(lambda: "old" in health.missing.get(CONDITION, ""), "health names the reason")
        assert known(epoch) is None
        await fleet.put(s.KEYRING_SEALING, fleet.message(2))
        await until(lambda: known(epoch) == 2, "the fresh message counts")


async def test_a_fresh_message_of_a_lower_epoch_neither_counts_nor_renews_the_higher(
    fleet: Fleet,
) -> None:
    await fleet.start(1)
    await fleet.start(2)
    await fleet.put(s.KEYRING_SEALING, fleet.message(2))
    async with fleet.watching() as (epoch, health):
        await until(lambda: known(epoch) == 2, "it is known")
        await fleet.put(s.KEYRING_SEALING, fleet.message(1))
        await until(lambda: CONDITION in health.missing, "the higher one goes stale")
        assert known(epoch) is None


async def test_an_epoch_message_from_the_future_does_not_count(fleet: Fleet) -> None:
    await fleet.start(1)
    await fleet.put(s.KEYRING_SEALING, fleet.message(1, age=-3600))
    async with fleet.watching() as (epoch, health):
        await until(
            lambda: "clocks" in health.missing.get(CONDITION, ""), "health names the reason"
        )
        assert known(epoch) is None
