"""The questions that billing answers (core request/reply)."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from faststream.nats import NatsRouter

from services.billing import events
from services.billing.statements import month
from services.billing.store import accounts, logs, periods, statements
from services.billing.zones import zone_of
from shared import subjects
from shared.clock import Clock
from shared.contracts.balance import BalanceView
from shared.contracts.findings import Code, finding
from shared.contracts.ledger import LedgerPage, QueryLedger, ShowStatement, Statement
from shared.contracts.queries import ChargesPage, LogsPage, QueryCharges, QueryLogs, QueryUsage, ShowBalance, UsagePage
from shared.errors import Refused
from shared.storage.pool import Pool

QUEUE = "billing"


def queries_router(pool: Pool) -> NatsRouter:
    """A page is full when it has ``limit`` rows; its ``next`` is the ``after`` of the next question."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_QUERY, queue=QUEUE, title="usage.query")
    async def usage_query(question: QueryUsage) -> UsagePage:
        rows = await periods.query(pool, question, _zone(question.zone))
        return UsagePage(rows=rows, next=periods.page_mark(rows[-1]) if len(rows) == question.limit else None)

    @router.subscriber(subjects.RPC_USAGE_LOGS, queue=QUEUE, title="usage.logs")
    async def usage_logs(question: QueryLogs) -> LogsPage:
        found = await logs.page_logs(pool, question)
        last = f"{found[-1].node}/{found[-1].log}" if len(found) == question.limit else None
        return LogsPage(logs=found, next=last)

    @router.subscriber(subjects.RPC_CHARGES_QUERY, queue=QUEUE, title="charges.query")
    async def charges_query(question: QueryCharges) -> ChargesPage:
        rows = await accounts.page_charges(pool, question)
        return ChargesPage(
            rows=[row for _, row in rows], next=accounts.page_mark(*rows[-1]) if len(rows) == question.limit else None
        )

    @router.subscriber(subjects.RPC_BALANCE_SHOW, queue=QUEUE, title="balance.show")
    async def balance_show(question: ShowBalance) -> BalanceView:
        return events.view(await accounts.read(pool, question.account))

    return router


def bills_router(pool: Pool, clock: Clock) -> NatsRouter:
    """What bills are made of: the ledger's lines, and the statement of a month."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_LEDGER_QUERY, queue=QUEUE, title="ledger.query")
    async def ledger_query(question: QueryLedger) -> LedgerPage:
        _zone(question.zone)
        rows = await statements.page(pool, question)
        return LedgerPage(rows=rows, next=statements.page_mark(rows[-1]) if len(rows) == question.limit else None)

    @router.subscriber(subjects.RPC_STATEMENT_SHOW, queue=QUEUE, title="statement.show")
    async def statement_show(question: ShowStatement) -> Statement:
        wanted = month(question.month, question.by, _zone(question.zone))
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            return await statements.statement(connection, question, wanted, clock.now())

    return router


def _zone(name: str) -> ZoneInfo:
    try:
        return zone_of(name)
    except LookupError as error:
        raise Refused([finding(Code.REQUEST_MALFORMED, f"At fault: zone ({error})", field="request")]) from None
