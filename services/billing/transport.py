"""The questions that billing answers (core request/reply)."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from faststream.nats import NatsRouter

from services.billing import events
from services.billing.auditing import Auditor
from services.billing.balance import Terms
from services.billing.statements import month
from services.billing.store import accounts, completeness, logs, periods, plans, prices, reading, statements
from services.billing.tariffs import NEVER, Prices, changes
from services.billing.usecases import review
from services.billing.zones import zone_of
from shared import subjects
from shared.clock import Clock
from shared.contracts.audit import AuditReport, GapsPage, QueryAudit, QueryGaps
from shared.contracts.balance import BalanceView
from shared.contracts.commands import ApplyPriceBook
from shared.contracts.findings import Code, finding
from shared.contracts.ledger import LedgerPage, QueryLedger, ShowStatement, Statement
from shared.contracts.prices import (
    ListPlans,
    PlansPage,
    PreviewPriceBook,
    PriceBookView,
    PriceEffect,
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
from shared.errors import Refused
from shared.money import minus
from shared.storage.pool import Pool

QUEUE = "billing"


def queries_router(pool: Pool, clock: Clock) -> NatsRouter:
    """A page is full when it has ``limit`` rows; its ``next`` is the ``after`` of the next question."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_USAGE_QUERY, queue=QUEUE, title="usage.query")
    async def usage_query(question: QueryUsage) -> UsagePage:
        """Requests and bytes by period (rule E3), by page. Refused (request.malformed): no such zone."""
        zone = _zone(question.zone)
        async with reading(pool) as connection:
            rows = await periods.query(connection, question, zone)
        return UsagePage(rows=rows, next=periods.page_mark(rows[-1]) if len(rows) == question.limit else None)

    @router.subscriber(subjects.RPC_USAGE_LOGS, queue=QUEUE, title="usage.logs")
    async def usage_logs(question: QueryLogs) -> LogsPage:
        """How far each log of the nodes is in, by page."""
        found = await logs.page_logs(pool, question)
        last = f"{found[-1].node}/{found[-1].log}" if len(found) == question.limit else None
        return LogsPage(logs=found, next=last)

    @router.subscriber(subjects.RPC_CHARGES_QUERY, queue=QUEUE, title="charges.query")
    async def charges_query(question: QueryCharges) -> ChargesPage:
        """The ledger's charges of an account's hours, by page."""
        rows = await accounts.page_charges(pool, question)
        return ChargesPage(
            rows=[row for _, row in rows], next=accounts.page_mark(*rows[-1]) if len(rows) == question.limit else None
        )

    @router.subscriber(subjects.RPC_BALANCE_SHOW, queue=QUEUE, title="balance.show")
    async def balance_show(question: ShowBalance) -> BalanceView:
        """An account's balance and flags (rule E6); an unknown account has 0."""
        terms = Terms(await prices.current(pool), clock.now())
        return events.view(await accounts.read(pool, question.account, terms))

    return router


def prices_router(pool: Pool, clock: Clock) -> NatsRouter:
    """What requests cost, what a new price book would change, and the plans that were bought."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_PRICE_BOOK_SHOW, queue=QUEUE, title="price_book.show")
    async def price_book_show(_question: Nothing) -> PriceBookView:
        """The price book that is current, and its number."""
        current = await prices.current(pool)
        return PriceBookView(serial=current.serial, book=current.book)

    @router.subscriber(subjects.RPC_PRICE_BOOK_PREVIEW, queue=QUEUE, title="price_book.preview")
    async def price_book_preview(question: PreviewPriceBook) -> PricePreview:
        """What a book would change and would have cost; its faults are findings of the answer."""
        old, now = await prices.current(pool), clock.now()
        order = ApplyPriceBook(base=old.serial, book=question.book)
        found = review(old, order, int(now.timestamp()) // 3600 + 1)
        effects = [] if found else _effects(old, Prices(0, question.book), await prices.charged_since(pool, now))
        return PricePreview(
            base=old.serial, changes=changes(old.book, question.book)[:1000], effects=effects[:200],
            findings=found[:100],
        )

    @router.subscriber(subjects.RPC_PLAN_LIST, queue=QUEUE, title="plan.list")
    async def plan_list(question: ListPlans) -> PlansPage:
        """The plans of an account, soonest to end first, by page."""
        found = await plans.page(pool, question.account, question.after, question.limit, clock.now())
        return PlansPage(plans=found, next=plans.page_mark(found[-1]) if len(found) == question.limit else None)

    return router


def _effects(old: Prices, new: Prices, charged: list[prices.Charged]) -> list[PriceEffect]:
    """Most changed first."""
    effects = [
        PriceEffect(
            account=account, currency=currency, requests=requests,
            now=old.tariff(account, currency, NEVER - 1).amount(0, requests),
            then=new.tariff(account, currency, NEVER - 1).amount(0, requests),
        )
        for account, currency, requests in charged
    ]
    return sorted(effects, key=lambda effect: -abs(minus(effect.then, effect.now)))


def audit_router(pool: Pool, clock: Clock) -> NatsRouter:
    """Is every byte in, and does everything add up?"""
    router, auditor = NatsRouter(), Auditor(pool)

    @router.subscriber(subjects.RPC_USAGE_GAPS, queue=QUEUE, title="usage.gaps")
    async def usage_gaps(question: QueryGaps) -> GapsPage:
        """Byte ranges that are not in, by page (rule E9)."""
        return await completeness.page(pool, question, clock.now())

    @router.subscriber(subjects.RPC_USAGE_AUDIT, queue=QUEUE, title="usage.audit")
    async def usage_audit(question: QueryAudit) -> AuditReport:
        """Whole hours, at most 31 days, recomputed from the archive. Refused (request.*) for other periods."""
        return await auditor.audit(question, clock.now())

    return router


def bills_router(pool: Pool, clock: Clock) -> NatsRouter:
    """What bills are made of: the ledger's lines, and the statement of a month."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_LEDGER_QUERY, queue=QUEUE, title="ledger.query")
    async def ledger_query(question: QueryLedger) -> LedgerPage:
        """Lines of the ledger in order of booking, by page."""
        _zone(question.zone)
        async with reading(pool) as connection:
            return await statements.page(connection, question)

    @router.subscriber(subjects.RPC_STATEMENT_SHOW, queue=QUEUE, title="statement.show")
    async def statement_show(question: ShowStatement) -> Statement:
        """A month of an account with a page of its lines."""
        wanted = month(question.month, question.by, _zone(question.zone))
        async with reading(pool) as connection:
            return await statements.statement(connection, question, wanted, clock.now())

    return router


def _zone(name: str) -> ZoneInfo:
    try:
        return zone_of(name)
    except LookupError as error:
        raise Refused([finding(Code.REQUEST_MALFORMED, f"At fault: zone ({error})", field="request")]) from None
