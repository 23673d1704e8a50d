"""The answers to questions.

A page is full when it has ``limit`` rows. Its ``next`` is the ``after`` of the next page then, and
None otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from zoneinfo import ZoneInfo

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import PricingContext
from services.billing.domain.calendar import find_zone
from services.billing.domain.price_book import NEVER, PriceLookup, describe_changes
from services.billing.domain.statements import statement_month
from services.billing.domain.units import UnixHour, hour_of
from services.billing.store import (
    accounts,
    completeness,
    ledger,
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
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.money import minus
from shared.storage.pool import Pool

RowT = TypeVar("RowT")
_MAX_CHANGES = 1000
_MAX_EFFECTS = 200
_MAX_FINDINGS = 100
_LAST_HOUR = UnixHour(NEVER - 1)


class BillingQueries:
    """The questions that billing answers, a method each, from its own database."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._auditor = Auditor(pool)

    async def query_usage(self, question: QueryUsage) -> UsagePage:
        """Return usage by 5 minutes, hour, day or month of a time zone."""
        zone = _zone(question.zone)
        async with open_snapshot(self._pool) as connection:
            rows = await usage_queries.query_usage(connection, question, zone)
        return UsagePage(rows=rows, next=_next_mark(rows, question.limit, usage_queries.usage_mark))

    async def query_logs(self, question: QueryLogs) -> LogsPage:
        """Return how far the nodes' logs are in."""
        rows = await logs.page_logs(self._pool, question)
        next_mark = _next_mark(rows, question.limit, lambda row: f"{row.node}/{row.log}")
        return LogsPage(logs=rows, next=next_mark)

    async def query_charges(self, question: QueryCharges) -> ChargesPage:
        """Return the charge lines of an account."""
        numbered = await ledger.page_charges(self._pool, question)
        rows: list[ChargeRow] = []
        for _, row in numbered:
            rows.append(row)
        next_mark = _next_mark(numbered, question.limit, lambda last: ledger.charge_mark(*last))
        return ChargesPage(rows=rows, next=next_mark)

    async def show_balance(self, question: ShowBalance) -> BalanceView:
        """Return an account's balance as it is now."""
        current = await prices.load_current_prices(self._pool)
        pricing = PricingContext(current, self._clock.now())
        state = await accounts.read_account(self._pool, question.account, pricing)
        return outgoing_messages.balance_view(state)

    async def show_price_book(self, question: Nothing) -> PriceBookView:
        """Return the current price book."""
        current = await prices.load_current_prices(self._pool)
        return PriceBookView(serial=current.serial, book=current.book)

    async def preview_price_book(self, question: PreviewPriceBook) -> PricePreview:
        """Return what a new price book would change, and for which accounts."""
        now = self._clock.now()
        old = await prices.load_current_prices(self._pool)
        command = ApplyPriceBook(base=old.serial, book=question.book)
        findings = review_price_book(old, command, UnixHour(hour_of(now) + 1))
        effects: list[PriceEffect] = []
        if not findings:
            charged = await prices.load_charged_since(self._pool, now)
            effects = _price_effects(old, PriceLookup(0, question.book), charged)
        return PricePreview(
            base=old.serial,
            changes=describe_changes(old.book, question.book)[:_MAX_CHANGES],
            effects=effects[:_MAX_EFFECTS],
            findings=findings[:_MAX_FINDINGS],
        )

    async def list_plans(self, question: ListPlans) -> PlansPage:
        """Return the plans of an account."""
        rows = await plans.page_plans(
            self._pool, question.account, question.after, question.limit, self._clock.now()
        )
        return PlansPage(plans=rows, next=_next_mark(rows, question.limit, plans.plan_mark))

    async def query_gaps(self, question: QueryGaps) -> GapsPage:
        """Return the bytes of the nodes' logs that are not in."""
        return await completeness.page_gaps(self._pool, question, self._clock.now())

    async def run_audit(self, question: QueryAudit) -> AuditReport:
        """Recompute a period from the archive, and compare."""
        return await self._auditor.run_audit(question, self._clock.now())

    async def query_ledger(self, question: QueryLedger) -> LedgerPage:
        """Return ledger lines by the months of a time zone."""
        _zone(question.zone)
        async with open_snapshot(self._pool) as connection:
            return await statements.page_ledger(connection, question)

    async def show_statement(self, question: ShowStatement) -> Statement:
        """Return the statement of an account's month."""
        month = statement_month(question.month, question.by, _zone(question.zone))
        async with open_snapshot(self._pool) as connection:
            return await statements.load_statement(connection, question, month, self._clock.now())


def _next_mark(rows: Sequence[RowT], limit: int, make_mark: Callable[[RowT], str]) -> str | None:
    if len(rows) < limit:
        return None
    return make_mark(rows[-1])


def _price_effects(
    old: PriceLookup, new: PriceLookup, charged: Sequence[prices.ChargedAccount]
) -> list[PriceEffect]:
    """Return what the requests of accounts cost by either book, the largest change first."""
    effects = []
    for account, currency, requests in charged:
        effect = PriceEffect(
            account=account,
            currency=currency,
            requests=requests,
            now=old.tariff_at(account, currency, _LAST_HOUR).amount(0, requests),
            then=new.tariff_at(account, currency, _LAST_HOUR).amount(0, requests),
        )
        effects.append(effect)
    effects.sort(key=lambda effect: -abs(minus(effect.then, effect.now)))
    return effects


def _zone(name: str) -> ZoneInfo:
    try:
        return find_zone(name)
    except LookupError as error:
        text = f"At fault: zone ({error})"
        raise Refused([finding(Code.REQUEST_MALFORMED, text, field="request")]) from None
