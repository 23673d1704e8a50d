"""What requests cost. Pure, ``Decimal``, linear: nothing is rounded but on a bill's line (rule E1)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Final

UNIT: Final = 10_000
"""Prices are for so many HTTPS requests."""
DEFAULT_CURRENCY: Final = "CNY"
PRICES: Final[Mapping[str, Decimal]] = {"CNY": Decimal("0.05"), "USD": Decimal("0.008")}
_DIGITS: Final = 76
"""The default context rounds at 28 digits: fewer than an amount may have."""


def price_of(currency: str) -> Decimal:
    """Per ``UNIT`` requests; KeyError for a currency without a price."""
    return PRICES[currency]


def amount_of(requests: int, currency: str) -> Decimal:
    """Exact; of a negative count (a correction downwards) a negative amount."""
    with localcontext(prec=_DIGITS):
        return plain(price_of(currency) * requests / UNIT)


def minus(left: Decimal, right: Decimal) -> Decimal:
    """Exact."""
    with localcontext(prec=_DIGITS):
        return plain(left - right)


def plain(amount: Decimal) -> Decimal:
    """The same value without trailing zeros: ``5.00`` and ``5`` read the same."""
    with localcontext(prec=_DIGITS):
        return amount.normalize() + Decimal(0) if amount else Decimal(0)
