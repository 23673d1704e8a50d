"""The questions that billing answers (core request/reply)."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.billing import events
from services.billing.store import accounts, logs, usage
from shared import subjects
from shared.contracts.balance import BalanceView
from shared.contracts.queries import ChargesPage, LogsPage, QueryCharges, QueryLogs, QueryUsage, ShowBalance, UsagePage
from shared.storage.pool import Pool

QUEUE = "billing"


def queries_router(pool: Pool) -> NatsRouter:
    """A page is full when it has ``limit`` rows; its ``next`` is the ``after`` of the next question."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_QUERY, queue=QUEUE, title="usage.query")
    async def usage_query(question: QueryUsage) -> UsagePage:
        rows = await usage.query(pool, question)
        return UsagePage(rows=rows, next=usage.page_mark(rows[-1]) if len(rows) == question.limit else None)

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
