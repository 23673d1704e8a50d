"""The answers to questions. A page is full when it has ``limit`` rows; its ``next`` is the next
one's ``after``."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import PricingContext
from services.billing.domain.calendar import find_zone
from services.billing.domain.price_book import NEVER, PriceLookup, describe_changes
from services.billing.domain.statements import statement_month
from services.billing.store import (
    accounts,
    completeness,
    logs,
    open_snapshot,
    plans,
    prices,
    statements,
    usage_queries,
)
from services.billing.usecases.audit import Auditor
from services.billing.usecases.money import review_price_book
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


class BillingQueries:
    """Every question of billing's, on its own database."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock, self._auditor = pool, clock, Auditor(pool)

    async def usage(self, question: QueryUsage) -> UsagePage:
        zone = _zone(question.zone)
        async with open_snapshot(self._pool) as connection:
            rows = await usage_queries.query_usage(connection, question, zone)
        return UsagePage(
            rows=rows,
            next=usage_queries.usage_mark(rows[-1]) if len(rows) == question.limit else None,
        )

    async def logs(self, question: QueryLogs) -> LogsPage:
        found = await logs.page_logs(self._pool, question)
        last = f"{found[-1].node}/{found[-1].log}" if len(found) == question.limit else None
        return LogsPage(logs=found, next=last)

    async def charges(self, question: QueryCharges) -> ChargesPage:
        rows = await accounts.page_charges(self._pool, question)
        return ChargesPage(
            rows=[row for _, row in rows],
            next=accounts.charge_mark(*rows[-1]) if len(rows) == question.limit else None,
        )

    async def balance(self, question: ShowBalance) -> BalanceView:
        terms = PricingContext(await prices.load_current_prices(self._pool), self._clock.now())
        return outgoing_messages.balance_view(
            await accounts.read_account(self._pool, question.account, terms)
        )

    async def price_book(self, question: Nothing) -> PriceBookView:
        current = await prices.load_current_prices(self._pool)
        return PriceBookView(serial=current.serial, book=current.book)

    async def preview(self, question: PreviewPriceBook) -> PricePreview:
        """What a new price book would change, and for whom."""
        old, now = await prices.load_current_prices(self._pool), self._clock.now()
        order = ApplyPriceBook(base=old.serial, book=question.book)
        found = review_price_book(old, order, int(now.timestamp()) // 3600 + 1)
        charged = [] if found else await prices.load_charged_since(self._pool, now)
        return PricePreview(
            base=old.serial,
            changes=describe_changes(old.book, question.book)[:1000],
            effects=_effects(old, PriceLookup(0, question.book), charged)[:200],
            findings=found[:100],
        )

    async def plans(self, question: ListPlans) -> PlansPage:
        found = await plans.page_plans(
            self._pool, question.account, question.after, question.limit, self._clock.now()
        )
        return PlansPage(
            plans=found, next=plans.plan_mark(found[-1]) if len(found) == question.limit else None
        )

    async def gaps(self, question: QueryGaps) -> GapsPage:
        return await completeness.page_gaps(self._pool, question, self._clock.now())

    async def audit(self, question: QueryAudit) -> AuditReport:
        return await self._auditor.audit(question, self._clock.now())

    async def ledger(self, question: QueryLedger) -> LedgerPage:
        _zone(question.zone)
        async with open_snapshot(self._pool) as connection:
            return await statements.page_ledger(connection, question)

    async def statement(self, question: ShowStatement) -> Statement:
        wanted = statement_month(question.month, question.by, _zone(question.zone))
        async with open_snapshot(self._pool) as connection:
            return await statements.load_statement(connection, question, wanted, self._clock.now())


def _effects(
    old: PriceLookup, new: PriceLookup, charged: Sequence[prices.ChargedAccount]
) -> list[PriceEffect]:
    """Most changed first."""
    effects = [
        PriceEffect(
            account=account,
            currency=currency,
            requests=requests,
            now=old.tariff(account, currency, NEVER - 1).amount(0, requests),
            then=new.tariff(account, currency, NEVER - 1).amount(0, requests),
        )
        for account, currency, requests in charged
    ]
    return sorted(effects, key=lambda effect: -abs(minus(effect.then, effect.now)))


def _zone(name: str) -> ZoneInfo:
    try:
        return find_zone(name)
    except LookupError as error:
        raise Refused(
            [finding(Code.REQUEST_MALFORMED, f"At fault: zone ({error})", field="request")]
        ) from None
