"""The questions that billing answers, by subject."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.billing.queries import Queries
from shared import subjects
from shared.contracts.audit import AuditReport, GapsPage, QueryAudit, QueryGaps
from shared.contracts.balance import BalanceView
from shared.contracts.ledger import LedgerPage, QueryLedger, ShowStatement, Statement
from shared.contracts.prices import ListPlans, PlansPage, PreviewPriceBook, PriceBookView, PricePreview
from shared.contracts.queries import (
    ChargesPage,
    LogsPage,
    Nothing,
    QueryCharges,
    QueryLogs,
    QueryUsage,
    ShowBalance,
    UsagePage,
)

QUEUE = "billing"


def usage_router(queries: Queries) -> NatsRouter:
    """What was used and charged."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_QUERY, queue=QUEUE)
    async def usage_query(question: QueryUsage) -> UsagePage:
        return await queries.usage(question)

    @router.subscriber(subjects.RPC_USAGE_LOGS, queue=QUEUE)
    async def usage_logs(question: QueryLogs) -> LogsPage:
        return await queries.logs(question)

    @router.subscriber(subjects.RPC_CHARGES_QUERY, queue=QUEUE)
    async def charges_query(question: QueryCharges) -> ChargesPage:
        return await queries.charges(question)

    @router.subscriber(subjects.RPC_BALANCE_SHOW, queue=QUEUE)
    async def balance_show(question: ShowBalance) -> BalanceView:
        return await queries.balance(question)

    return router


def prices_router(queries: Queries) -> NatsRouter:
    """What requests cost, what a new price book would change, and the plans that were bought."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_PRICE_BOOK_SHOW, queue=QUEUE)
    async def price_book_show(_question: Nothing) -> PriceBookView:
        return await queries.price_book()

    @router.subscriber(subjects.RPC_PRICE_BOOK_PREVIEW, queue=QUEUE)
    async def price_book_preview(question: PreviewPriceBook) -> PricePreview:
        return await queries.preview(question)

    @router.subscriber(subjects.RPC_PLAN_LIST, queue=QUEUE)
    async def plan_list(question: ListPlans) -> PlansPage:
        return await queries.plans(question)

    return router


def audit_router(queries: Queries) -> NatsRouter:
    """Is every byte in, and does everything add up?"""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_GAPS, queue=QUEUE)
    async def usage_gaps(question: QueryGaps) -> GapsPage:
        return await queries.gaps(question)

    @router.subscriber(subjects.RPC_USAGE_AUDIT, queue=QUEUE)
    async def usage_audit(question: QueryAudit) -> AuditReport:
        return await queries.audit(question)

    return router


def bills_router(queries: Queries) -> NatsRouter:
    """What bills are made of: the ledger's lines, and the statement of a month."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_LEDGER_QUERY, queue=QUEUE)
    async def ledger_query(question: QueryLedger) -> LedgerPage:
        return await queries.ledger(question)

    @router.subscriber(subjects.RPC_STATEMENT_SHOW, queue=QUEUE)
    async def statement_show(question: ShowStatement) -> Statement:
        return await queries.statement(question)

    return router
