"""What requests cost. Pure, ``Decimal``: nothing is rounded but on a bill's line (rule E1).

A tariff counts the requests that are charged in a calendar month (UTC): each costs the price of the
tier it falls in. So what a month costs depends on how many there were and not on the order or the
lots in which they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, NamedTuple

from shared.money import per, total

PRICE_UNIT: Final = 10_000
"""Prices are for so many HTTPS requests."""
DEFAULT_CURRENCY: Final = "CNY"
LIST_PRICES: Final[Mapping[str, Decimal]] = {"CNY": Decimal("0.05"), "USD": Decimal("0.008")}


class TierPart(NamedTuple):
    """``requests`` of one tier at its ``price``; both negative where requests are taken back."""

    requests: int
    price: Decimal
    amount: Decimal


@dataclass(frozen=True)
class Tariff:
    """``tiers``: (above, price), from 0 upwards; ``id`` names the price in the price book."""

    id: str
    tiers: tuple[tuple[int, Decimal], ...]

    def parts(self, used: int, requests: int) -> list[TierPart]:
        """``requests`` more after the first ``used`` of the month, tier by tier; ``used`` +
        ``requests`` >= 0."""
        low, high = sorted((used, used + requests))
        sign = 1 if requests >= 0 else -1
        found = []
        for index, (above, price) in enumerate(self.tiers):
            top = self.tiers[index + 1][0] if index + 1 < len(self.tiers) else high
            inside = min(high, max(top, above)) - max(low, above)
            if inside > 0:
                found.append(TierPart(sign * inside, price, request_cost(sign * inside, price)))
        return found if sign > 0 else found[::-1]

    def amount(self, used: int, requests: int) -> Decimal:
        """What the parts cost together."""
        return total(part.amount for part in self.parts(used, requests))


def list_tariff(currency: str) -> Tariff:
    """The list price that edgetls comes with; KeyError for a currency without one."""
    return LIST_TARIFFS[currency]


LIST_TARIFFS: Final = {
    currency: Tariff(f"list-{currency.lower()}", ((0, price),))
    for currency, price in LIST_PRICES.items()
}


def request_cost(requests: int, price: Decimal) -> Decimal:
    """Exact; of a negative count (a correction downwards) a negative amount."""
    return per(price, requests, PRICE_UNIT)


def month_of(hour: int) -> int:
    """The calendar month (UTC) of an hour of Unix time: 12 a year."""
    at = datetime.fromtimestamp(hour * 3600, UTC)
    return at.year * 12 + at.month - 1
