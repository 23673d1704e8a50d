"""When a balance is low, depleted, recovered, settled (rule E6). Pure.

An account's flags are decided under its row lock; each change has the account's next crossing number, from which the
id of its event derives: once a crossing, whatever is delivered again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Final, Literal

from services.billing.rating import DEFAULT_CURRENCY, PRICES, amount_of, minus, plain
from shared.contracts.findings import Code

HOURS_OF_MEAN: Final = 7
HOURS_LEFT_AT_LOW: Final = 3
CLEARS_AT: Final = Decimal("1.2")
Change = Literal["low", "recovered", "depleted", "settled"]


@dataclass(frozen=True)
class Standing:
    """One account. ``accrued_requests``: counted and not charged yet; ``recent_requests``: charged in the last
    ``recent_hours`` closed hours with service; ``entries``: lines in its ledger; ``currency`` None: not chosen yet."""

    account: str
    currency: str | None = None
    ledger: Decimal = Decimal(0)
    entries: int = 0
    accrued_requests: int = 0
    threshold: Decimal | None = None
    recent_requests: int = 0
    recent_hours: int = 0
    low: bool = False
    depleted: bool = False
    crossing: int = 0

    @property
    def money(self) -> str:
        """The currency that it is rated in."""
        return self.currency or DEFAULT_CURRENCY

    @property
    def accrued(self) -> Decimal:
        return amount_of(self.accrued_requests, self.money)

    @property
    def balance(self) -> Decimal:
        return minus(self.ledger, self.accrued)

    @property
    def limit(self) -> Decimal | None:
        """Below this the balance is low: three mean hours or the account's own threshold, whichever is more.

        None when neither rule is on (no closed hour with service, no threshold)."""
        rules = [] if self.threshold is None else [self.threshold]
        if self.recent_hours:
            rules.append(_divide(amount_of(self.recent_requests * HOURS_LEFT_AT_LOW, self.money), self.recent_hours))
        return max(rules) if rules else None

    @property
    def hours_left(self) -> Decimal | None:
        """Hours at the mean charge of the last closed hours with service; None when there were none."""
        if not self.recent_hours or self.recent_requests <= 0:
            return None
        if self.balance <= 0:
            return Decimal(0)
        mean = _divide(amount_of(self.recent_requests, self.money), self.recent_hours)
        return plain((self.balance / mean).quantize(Decimal("0.01")))


@dataclass(frozen=True)
class Crossing:
    """``number`` is the account's own; ``standing`` is as it was decided on."""

    change: Change
    number: int
    standing: Standing


def money_fault(standing: Standing, currency: str) -> Code | None:
    """Amounts never mix currencies, and an account is kept only in one that has a price (rule E8)."""
    if currency not in PRICES or standing.currency not in (None, currency):
        return Code.BALANCE_CURRENCY
    return None


def judge(standing: Standing) -> tuple[Standing, list[Crossing]]:
    """The standing with its flags set, and what changed. An account that nothing moved yet is not judged."""
    if not standing.entries and not standing.accrued_requests:
        return standing, []
    changes: list[Change] = []
    low, depleted = _is_low(standing), standing.balance <= 0
    if low != standing.low:
        changes.append("low" if low else "recovered")
    if depleted != standing.depleted:
        changes.append("depleted" if depleted else "settled")
    decided = replace(standing, low=low, depleted=depleted, crossing=standing.crossing + len(changes))
    return decided, [
        Crossing(change, standing.crossing + index, decided) for index, change in enumerate(changes, start=1)
    ]


def _is_low(standing: Standing) -> bool:
    """Between the limit and 1.2 times the limit it stays as it was: no flapping."""
    limit = standing.limit
    if limit is None:
        return False
    if standing.low:
        return standing.balance < _times(limit, CLEARS_AT)
    return standing.balance < limit


def _times(amount: Decimal, factor: Decimal) -> Decimal:
    with localcontext(prec=76):
        return amount * factor


def _divide(amount: Decimal, by: int) -> Decimal:
    """To the 18 digits that an amount carries."""
    with localcontext(prec=76):
        return plain((amount / by).quantize(Decimal(1).scaleb(-18)))
