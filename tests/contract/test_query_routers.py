"""Every query of the catalogue, bound by its service and asked in memory: without a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from faststream.nats import NatsBroker, NatsRouter, TestNatsBroker

from services.billing.transport.queries import query_router as billing_router
from services.billing.usecases.queries import BillingQueries
from services.config.transport.queries import query_router as config_router
from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import CommandPreviews
from services.config.usecases.queries import DomainQueries
from services.validator.transport import query_router as validator_router
from shared import catalogue, subjects
from shared.catalogue_row import Query
from shared.clock import Clock
from shared.contracts.base import SealedKey
from shared.contracts.commands import SubmittedPair
from shared.contracts.findings import Code, Refusal
from shared.contracts.judging import CheckCertificate, CheckReport
from shared.contracts.prices import PriceBook
from shared.contracts.queries import MaxRevision, Nothing
from shared.errors import Refused
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.rpc import answer, answer_refusals

JUDGED_BEFORE_READING = (catalogue.RPC_PRICE_BOOK_PREVIEW, catalogue.RPC_COMMAND_PREVIEW)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS: dict[str, Any] = {
    "account": "acme",
    "below": 1,
    "body": "{}",
    "book": PriceBook.model_construct(),
    "command": "https.cmd.https.disable.v1",
    "command_id": "c-1",
    "domain": "www.example.com",
    "domains": ["www.example.com"],
    "end": datetime(2026, 1, 2, tzinfo=UTC),
    "month": "2026-01",
    "name": "wild",
    "pairs": [SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box="AAAA"))],
    "sequence": 1,
    "start": _NOW,
    "submission_id": "s-1",
}


class Away:
    """A database, broker or pool of workers that is away: whatever is asked of it fails."""

    def jetstream(self, **_: Any) -> Away:
        return self

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"{name}: away")


def _routers() -> dict[str, NatsRouter]:
    away = cast(Any, Away())
    clock = Clock(None)
    previews = CommandPreviews(away, clock, allow_private_origins=False)

    class AwayJudging:
        async def check_certificate(self, question: CheckCertificate) -> CheckReport:
            raise OSError("away")

    return {
        "validator": validator_router(cast(Any, AwayJudging())),
        "config": config_router(DomainQueries(away, clock), LibraryQueries(away, clock), previews),
        "billing": billing_router(BillingQueries(away, clock)),
    }


@asynccontextmanager
async def _asked(service: str) -> AsyncIterator[NatsBroker]:
    broker = NatsBroker()
    broker.add_middleware(answer_refusals())
    away = cast(Any, Away())
    broker.include_router(_routers()[service])
    broker.include_router(dead_letter_router(service, DeadLetterService(away, away, service)))
    async with TestNatsBroker(broker) as running:
        yield running


async def _ask(broker: NatsBroker, query: Query[Any, Any], body: bytes) -> Refusal:
    reply = await broker.request(body, query, timeout=5)
    return Refusal.model_validate_json(reply.body)


def _cases() -> Iterator[tuple[str, Query[Any, Any]]]:
    for service in ("validator", "config", "billing"):
        for query in catalogue.received_by(service, "query"):
            assert isinstance(query, Query)
            yield service, query


@pytest.mark.parametrize(("service", "query"), list(_cases()), ids=str)
async def test_a_question_that_is_not_its_contract_is_refused_with_the_field_at_fault(
    service: str, query: Query[Any, Any]
) -> None:
    async with _asked(service) as broker:
        refusal = await _ask(broker, query, b'{"no_such_field": 1}')
    assert [one.code for one in refusal.refusal] == [Code.REQUEST_MALFORMED]
    assert "no_such_field" in refusal.refusal[0].message


@pytest.mark.parametrize(
    ("service", "query"),
    [case for case in _cases() if case[1] not in JUDGED_BEFORE_READING],
    ids=str,
)
async def test_a_question_is_answered_as_busy_while_the_database_or_broker_is_away(
    service: str, query: Query[Any, Any]
) -> None:
    fields = query.body.model_fields
    named = {name for name, field in fields.items() if field.is_required() or name == "account"}
    question = query.body.model_construct(**{name: _FIELDS[name] for name in named})
    async with _asked(service) as broker:
        refusal = await _ask(broker, query, question.encode())
    assert [one.code for one in refusal.refusal] == [Code.SERVICE_BUSY]


class Answers:
    """Bound methods as a service has them."""

    def __init__(self, refused: bool) -> None:
        self._refused = refused

    async def max_revision(self, _question: Nothing) -> MaxRevision:
        """Answer, or refuse."""
        if self._refused:
            raise Refused([])
        return MaxRevision(revision=7)


@pytest.mark.parametrize(("refused", "expected"), [(False, '"revision":7'), (True, '"refusal":[]')])
async def test_an_answer_is_its_model_and_what_is_refused_is_a_refusal(
    refused: bool, expected: str
) -> None:
    router = NatsRouter()
    answer(router, catalogue.RPC_EDGE_MAX_REVISION, Answers(refused).max_revision)
    broker = NatsBroker()
    broker.add_middleware(answer_refusals())
    broker.include_router(router)
    async with TestNatsBroker(broker) as running:
        reply = await running.request(b"{}", catalogue.RPC_EDGE_MAX_REVISION, timeout=5)
    assert expected in reply.body.decode()


def test_every_service_that_has_queries_is_tried_here_or_with_its_leader() -> None:
    assert {service for service, _ in _cases()} == set(subjects.SERVICES) - {"edge_sync"}
