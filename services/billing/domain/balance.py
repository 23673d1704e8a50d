"""When a balance is low, depleted, overdue, recovered, settled (rules E6, E7). Pure.

An account's flags are decided under its row lock; each change has the account's next crossing
number, from which the id of its event derives: once a crossing, whatever is delivered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, NamedTuple

from services.billing.domain.price_book import PriceLookup
from services.billing.domain.rating import DEFAULT_CURRENCY, Tariff, list_tariff, month_of
from shared.contracts.findings import Code
from shared.money import minus, plain, product, share

HOURS_OF_MEAN: Final = 7
HOURS_LEFT_AT_LOW: Final = 3
CLEARS_AT: Final = Decimal("1.2")
CrossingKind = Literal["low", "recovered", "depleted", "settled", "overdue"]


@dataclass(frozen=True)
class PricingContext:
    """What decisions are made by: the prices, the time, and how long an account may be depleted
    (rule E7)."""

    prices: PriceLookup
    at: datetime
    overdue_after: timedelta = timedelta(hours=24)

    @cached_property
    def hour(self) -> int:
        return int(self.at.timestamp()) // 3600

    @cached_property
    def month(self) -> int:
        return month_of(self.hour)


class AccountState(NamedTuple):
    """One account. ``accrued_requests``: counted and not charged yet; ``recent_amount``: charged
    for the last ``recent_hours`` closed hours with service; ``entries``: lines in its ledger;
    ``currency`` None: not chosen yet.

    ``plan_left``: requests left in its plans; ``tier_used``: charged this month at the current
    price; both as of the last charge. ``tier_key``: the month and price that this is of."""

    account: str
    currency: str | None = None
    ledger: Decimal = Decimal(0)
    entries: int = 0
    accrued_requests: int = 0
    threshold: Decimal | None = None
    recent_amount: Decimal = Decimal(0)
    recent_hours: int = 0
    low: bool = False
    depleted: bool = False
    overdue: bool = False
    depleted_since: datetime | None = None
    crossing: int = 0
    plan_left: int = 0
    tier_key: str | None = None
    tier_used: int = 0
    rate_from: int | None = None
    tariff: Tariff | None = None

    @property
    def money(self) -> str:
        """The currency that it is rated in."""
        return self.currency or DEFAULT_CURRENCY

    @property
    def accrued(self) -> Decimal:
        """What is not charged yet, at the price of now: first from the plans, then on from the
        month's tier."""
        tariff, count = self.tariff or list_tariff(self.money), self.accrued_requests
        if count < 0:
            return minus(Decimal(0), tariff.amount(max(self.tier_used + count, 0), -count))
        return tariff.amount(self.tier_used, max(count - self.plan_left, 0))

    @property
    def balance(self) -> Decimal:
        return minus(self.ledger, self.accrued)

    @property
    def limit(self) -> Decimal | None:
        """Below this the balance is low: three mean hours or the account's own threshold, whichever
        is more.

        None when neither rule is on (no closed hour with service, no threshold)."""
        rules = [] if self.threshold is None else [self.threshold]
        if self.recent_hours:
            rules.append(share(self.recent_amount, HOURS_LEFT_AT_LOW, self.recent_hours))
        return max(rules) if rules else None

    @property
    def hours_left(self) -> Decimal | None:
        """Hours at the mean charge of the last closed hours with service; None when there were
        none."""
        if not self.recent_hours or self.recent_amount <= 0:
            return None
        if self.balance <= 0:
            return Decimal(0)
        mean = share(self.recent_amount, 1, self.recent_hours)
        return plain((self.balance / mean).quantize(Decimal("0.01")))


@dataclass(frozen=True)
class Crossing:
    """``number`` is the account's own; ``standing`` is as it was decided on."""

    change: CrossingKind
    number: int
    standing: AccountState


def with_current_tariff(standing: AccountState, terms: PricingContext) -> AccountState:
    """With the tariff of its currency now; a new month or price begins in its first tier."""
    tariff = terms.prices.tariff(standing.account, standing.money, terms.hour)
    key = f"{terms.month}:{tariff.id}"
    used = standing.tier_used if standing.tier_key == key else 0
    return standing._replace(tariff=tariff, tier_key=key, tier_used=used)


def currency_fault(standing: AccountState, currency: str, prices: PriceLookup) -> Code | None:
    """Amounts never mix currencies, and an account is kept only in one that has a price (rule
    E8)."""
    if currency not in prices.currencies or standing.currency not in (None, currency):
        return Code.BALANCE_CURRENCY
    return None


def decide_flags(
    standing: AccountState, terms: PricingContext
) -> tuple[AccountState, list[Crossing]]:
    """The standing with its flags set, and what changed. An account that nothing moved yet is not
    judged.

    Overdue ends with depleted: the event for that is ``settled``."""
    if not standing.entries and not standing.accrued_requests:
        return standing, []
    changes: list[CrossingKind] = []
    balance = standing.balance
    low, depleted = _is_low(standing, balance), balance <= 0
    since = (standing.depleted_since or terms.at) if depleted else None
    overdue = since is not None and (standing.overdue or terms.at - since >= terms.overdue_after)
    if low != standing.low:
        changes.append("low" if low else "recovered")
    if depleted != standing.depleted:
        changes.append("depleted" if depleted else "settled")
    if overdue and not standing.overdue:
        changes.append("overdue")
    if not changes and since == standing.depleted_since:
        return standing, []
    decided = standing._replace(
        low=low,
        depleted=depleted,
        depleted_since=since,
        overdue=overdue,
        crossing=standing.crossing + len(changes),
    )
    return decided, [
        Crossing(change, standing.crossing + index, decided)
        for index, change in enumerate(changes, start=1)
    ]


def _is_low(standing: AccountState, balance: Decimal) -> bool:
    """Between the limit and 1.2 times the limit it stays as it was: no flapping."""
    limit = standing.limit
    if limit is None:
        return False
    if standing.low:
        return balance < product(limit, CLEARS_AT)
    return balance < limit
