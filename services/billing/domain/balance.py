"""The low-balance rule, and when a balance is depleted, overdue, or fine again (rules E6, E7).

- **low**: the balance is below the limit. The limit is the larger one of the account's own
  threshold and the cost of 3 mean hours (``HOURS_LEFT_AT_LOW``); the mean is over its last 7 closed
  hours with charged requests (``HOURS_OF_MEAN``). Without both there is no limit.
- **recovered**: the balance of a low account reaches 1.2 times the limit (``CLEARS_AT``).
- **depleted**: the balance is 0 or less. **settled**: it is above 0 again.
- **overdue**: the account has been depleted for 24 hours (``PricingContext.overdue_after``). Only
  ``settled`` ends it.

balance = ledger - accrued requests at the price of now. Flags are decided under the lock of the
account's row. Each change takes the account's next crossing number, from which the id of its event
derives: an event is published once for each crossing, also when messages are delivered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, NamedTuple

from services.billing.domain.price_book import PriceLookup
from services.billing.domain.rating import DEFAULT_CURRENCY, Tariff, list_tariff
from services.billing.domain.units import CalendarMonth, UnixHour, hour_of, month_of
from shared.contracts.findings import Code
from shared.money import minus, plain, product, share

HOURS_OF_MEAN: Final = 7
HOURS_LEFT_AT_LOW: Final = 3
CLEARS_AT: Final = Decimal("1.2")
CrossingKind = Literal["low", "recovered", "depleted", "settled", "overdue"]


@dataclass(frozen=True)
class PricingContext:
    """The prices, the time ``at``, and how long an account may be depleted (rule E7)."""

    prices: PriceLookup
    at: datetime
    overdue_after: timedelta = timedelta(hours=24)

    @cached_property
    def hour(self) -> UnixHour:
        return hour_of(self.at)

    @cached_property
    def month(self) -> CalendarMonth:
        return month_of(self.hour)


class AccountState(NamedTuple):
    """One row of the table of accounts. ``tariff``: rates its accrued requests, and is no column.

    ``currency`` None: not chosen yet. ``ledger``: the sum of its ``entries`` ledger lines.
    ``accrued_requests``: counted and not charged yet. ``recent_amount``: charged for the last
    ``recent_hours`` closed hours with service. ``plan_left``: requests left in its plans, and
    ``tier_used``: requests charged this month at the current price, both as of the last charge.
    ``tier_key``: month and price that ``tier_used`` belongs to. ``rate_from``: the first hour that
    must be rated anew though its count did not change."""

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
    rate_from: UnixHour | None = None
    tariff: Tariff | None = None

    @property
    def rating_currency(self) -> str:
        return self.currency or DEFAULT_CURRENCY

    @property
    def accrued_amount(self) -> Decimal:
        """The cost of the accrued requests: plans first, then on from the month's tier."""
        tariff = self.tariff or list_tariff(self.rating_currency)
        requests = self.accrued_requests
        if requests < 0:
            return minus(Decimal(0), tariff.amount(max(self.tier_used + requests, 0), -requests))
        return tariff.amount(self.tier_used, max(requests - self.plan_left, 0))

    @property
    def balance(self) -> Decimal:
        return minus(self.ledger, self.accrued_amount)

    @property
    def low_limit(self) -> Decimal | None:
        """The balance is low below this. None without a threshold and without a charged hour."""
        limit = self.threshold
        if self.recent_hours:
            mean_hours = share(self.recent_amount, HOURS_LEFT_AT_LOW, self.recent_hours)
            if limit is None or mean_hours > limit:
                limit = mean_hours
        return limit

    @property
    def hours_left(self) -> Decimal | None:
        """Hours that the balance lasts at the mean charge. None when no hour was charged."""
        if not self.recent_hours or self.recent_amount <= 0:
            return None
        if self.balance <= 0:
            return Decimal(0)
        mean = share(self.recent_amount, 1, self.recent_hours)
        return plain((self.balance / mean).quantize(Decimal("0.01")))


@dataclass(frozen=True)
class Crossing:
    """One change of a flag. ``number``: the account's own count; ``state``: after the change."""

    kind: CrossingKind
    number: int
    state: AccountState


def with_current_tariff(state: AccountState, pricing: PricingContext) -> AccountState:
    """Set the tariff of the account's currency at this time.

    A new month, or a new price, begins in its first tier."""
    tariff = pricing.prices.tariff_at(state.account, state.rating_currency, pricing.hour)
    key = f"{pricing.month}:{tariff.id}"
    tier_used = state.tier_used if state.tier_key == key else 0
    return state._replace(tariff=tariff, tier_key=key, tier_used=tier_used)


def currency_fault(state: AccountState, currency: str, prices: PriceLookup) -> Code | None:
    """Return the reason why the account cannot take an amount in ``currency``, or None (rule E8).

    An account is kept in one currency, and only in one that has a price."""
    if currency not in prices.currencies:
        return Code.BALANCE_CURRENCY
    if state.currency is not None and state.currency != currency:
        return Code.BALANCE_CURRENCY
    return None


def decide_flags(
    state: AccountState, pricing: PricingContext
) -> tuple[AccountState, list[Crossing]]:
    """Return the state with its flags set, and the changes. The same object when nothing changed.

    An account without a ledger line and without accrued requests is not judged. ``settled`` also
    ends overdue: there is no event of its own for that."""
    if not state.entries and not state.accrued_requests:
        return state, []
    # Each flag is compared with the flag as it was stored: only a change makes an event. ``low``
    # has two limits (see _is_low), and ``overdue`` stays on until the balance is above 0, also
    # when a credit lifts it to 0 exactly.
    balance = state.balance
    low = _is_low(state, balance)
    depleted = balance <= 0
    depleted_since = None
    overdue = False
    if depleted:
        depleted_since = state.depleted_since or pricing.at
        overdue = state.overdue or pricing.at - depleted_since >= pricing.overdue_after
    kinds: list[CrossingKind] = []
    if low != state.low:
        kinds.append("low" if low else "recovered")
    if depleted != state.depleted:
        kinds.append("depleted" if depleted else "settled")
    if overdue and not state.overdue:
        kinds.append("overdue")
    if not kinds and depleted_since == state.depleted_since:
        return state, []
    decided = state._replace(
        low=low,
        depleted=depleted,
        depleted_since=depleted_since,
        overdue=overdue,
        crossing=state.crossing + len(kinds),
    )
    crossings = []
    for number, kind in enumerate(kinds, start=state.crossing + 1):
        crossings.append(Crossing(kind, number, decided))
    return decided, crossings


def _is_low(state: AccountState, balance: Decimal) -> bool:
    """Between the limit and 1.2 times the limit the flag stays as it was: no flapping."""
    limit = state.low_limit
    if limit is None:
        return False
    if state.low:
        return balance < product(limit, CLEARS_AT)
    return balance < limit
