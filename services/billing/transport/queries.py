"""The questions that billing answers, by subject."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.billing.usecases.queries import Queries
from shared import subjects
from shared.contracts.audit import AuditReport, GapsPage, QueryAudit, QueryGaps
from shared.contracts.balance import BalanceView
from shared.contracts.ledger import LedgerPage, QueryLedger, ShowStatement, Statement
from shared.contracts.prices import (
    ListPlans,
    PlansPage,
    PreviewPriceBook,
    PriceBookView,
    PricePreview,
)
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
        """Requests and bytes by period (rule E3), by page. Refused (request.malformed): no such
        zone."""
        return await queries.usage(question)

    @router.subscriber(subjects.RPC_USAGE_LOGS, queue=QUEUE)
    async def usage_logs(question: QueryLogs) -> LogsPage:
        """How far each log of the nodes is in, by page."""
        return await queries.logs(question)

    @router.subscriber(subjects.RPC_CHARGES_QUERY, queue=QUEUE)
    async def charges_query(question: QueryCharges) -> ChargesPage:
        """The ledger's charges of an account's hours, by page."""
        return await queries.charges(question)

    @router.subscriber(subjects.RPC_BALANCE_SHOW, queue=QUEUE)
    async def balance_show(question: ShowBalance) -> BalanceView:
        """An account's balance and flags (rule E6); an unknown account has 0."""
        return await queries.balance(question)

    return router


def prices_router(queries: Queries) -> NatsRouter:
    """What requests cost, what a new price book would change, and the plans that were bought."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_PRICE_BOOK_SHOW, queue=QUEUE)
    async def price_book_show(_question: Nothing) -> PriceBookView:
        """The price book that is current, and its number."""
        return await queries.price_book()

    @router.subscriber(subjects.RPC_PRICE_BOOK_PREVIEW, queue=QUEUE)
    async def price_book_preview(question: PreviewPriceBook) -> PricePreview:
        """What a book would change and would have cost; its faults are findings of the answer."""
        return await queries.preview(question)

    @router.subscriber(subjects.RPC_PLAN_LIST, queue=QUEUE)
    async def plan_list(question: ListPlans) -> PlansPage:
        """The plans of an account, soonest to end first, by page."""
        return await queries.plans(question)

    return router


def audit_router(queries: Queries) -> NatsRouter:
    """Is every byte in, and does everything add up?"""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_GAPS, queue=QUEUE)
    async def usage_gaps(question: QueryGaps) -> GapsPage:
        """Byte ranges that are not in, by page (rule E9)."""
        return await queries.gaps(question)

    @router.subscriber(subjects.RPC_USAGE_AUDIT, queue=QUEUE)
    async def usage_audit(question: QueryAudit) -> AuditReport:
        """Whole hours, at most 31 days, recomputed from the archive. Refused (request.*) for other
        periods."""
        return await queries.audit(question)

    return router


def bills_router(queries: Queries) -> NatsRouter:
    """What bills are made of: the ledger's lines, and the statement of a month."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_LEDGER_QUERY, queue=QUEUE)
    async def ledger_query(question: QueryLedger) -> LedgerPage:
        """Lines of the ledger in order of booking, by page."""
        return await queries.ledger(question)

    @router.subscriber(subjects.RPC_STATEMENT_SHOW, queue=QUEUE)
    async def statement_show(question: ShowStatement) -> Statement:
        """A month of an account with a page of its lines."""
        return await queries.statement(question)

    return router
