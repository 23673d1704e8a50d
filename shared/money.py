"""Exact amounts: the default context rounds at 28 digits, and an amount of the ledger may have
38.

Only ``times`` and ``share`` round, to the 18 places that an amount carries."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Final

_EXACT: Final = Context(prec=76)
_PLACE: Final = Decimal(1).scaleb(-18)
_ZERO: Final = Decimal(0)


def plain(amount: Decimal) -> Decimal:
    """Return the value without trailing zeros: ``5.00`` and ``5`` read the same, and zero has no
    sign."""
    return _EXACT.add(amount.normalize(_EXACT), _ZERO) if amount else _ZERO


def negated(amount: Decimal) -> Decimal:
    """Return the negative; zero has no sign."""
    return amount.copy_negate() if amount else _ZERO


def plus(left: Decimal, right: Decimal) -> Decimal:
    """Add exactly."""
    return plain(_EXACT.add(left, right))


def minus(left: Decimal, right: Decimal) -> Decimal:
    """Subtract exactly."""
    return plain(_EXACT.subtract(left, right))


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Add up exactly."""
    added = _ZERO
    for amount in amounts:
        added = _EXACT.add(added, amount)
    return plain(added)


def product(left: Decimal, right: Decimal) -> Decimal:
    """Multiply exactly."""
    return plain(_EXACT.multiply(left, right))


def per(price: Decimal, count: int, unit: int) -> Decimal:
    """Return the cost of ``count`` at ``price`` for each ``unit`` of them, a power of ten."""
    return plain(_EXACT.divide(_EXACT.multiply(price, count), unit))


def times(price: Decimal, quantity: Decimal) -> Decimal:
    """Multiply and round to 18 places, as the ledger keeps it."""
    return plain(_EXACT.multiply(price, quantity).quantize(_PLACE, context=_EXACT))


def share(amount: Decimal, part: int, whole: int) -> Decimal:
    """Return ``part`` of ``whole`` of the amount, to 18 places."""
    return plain(
        _EXACT.divide(_EXACT.multiply(amount, part), whole).quantize(_PLACE, context=_EXACT)
    )
