"""The price of requests: exact ``Decimal``, rounded only on the line of a bill (rule E1).

A tariff counts the requests that are charged in a calendar month (UTC). Each request costs the
price of the tier that it falls in. So the cost of a month depends on the number of its requests
and neither on their order nor on the steps in which they were charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from shared.money import per, total

PRICE_UNIT: Final = 10_000
"""A price is for this many HTTPS requests."""
DEFAULT_CURRENCY: Final = "CNY"
LIST_PRICES: Final[Mapping[str, Decimal]] = {"CNY": Decimal("0.05"), "USD": Decimal("0.008")}


class TierPart(NamedTuple):
    """Requests of one tier at its price. ``requests`` and ``amount`` are negative where requests
    are taken back."""

    requests: int
    price: Decimal
    amount: Decimal


@dataclass(frozen=True)
class Tariff:
    """A price with its tiers. ``tiers``: (above, price), from 0 upwards; ``id`` names the price in
    the price book."""

    id: str
    tiers: tuple[tuple[int, Decimal], ...]

    def split_by_tier(self, used: int, requests: int) -> list[TierPart]:
        """Rate ``requests`` that follow the first ``used`` of the month, tier by tier.

        A negative count takes requests back, from the highest tier down. ``used + requests`` is 0
        or more."""
        low = min(used, used + requests)
        high = max(used, used + requests)
        sign = 1 if requests >= 0 else -1
        parts = []
        for index, (above, price) in enumerate(self.tiers):
            is_last = index + 1 == len(self.tiers)
            top = high if is_last else self.tiers[index + 1][0]
            inside = min(high, max(top, above)) - max(low, above)
            if inside > 0:
                parts.append(TierPart(sign * inside, price, request_cost(sign * inside, price)))
        if sign < 0:
            parts.reverse()
        return parts

    def amount(self, used: int, requests: int) -> Decimal:
        """Return the cost of ``requests`` that follow the first ``used`` of the month."""
        return total(part.amount for part in self.split_by_tier(used, requests))


LIST_TARIFFS: Final = {
    currency: Tariff(f"list-{currency.lower()}", ((0, price),))
    for currency, price in LIST_PRICES.items()
}


def list_tariff(currency: str) -> Tariff:
    """Return the list price that edgetls comes with. KeyError for a currency without one."""
    return LIST_TARIFFS[currency]


def request_cost(requests: int, price: Decimal) -> Decimal:
    """Return the exact cost. A negative count (a correction downwards) has a negative cost."""
    return per(price, requests, PRICE_UNIT)
