"""Exact amounts: the default context rounds at 28 digits, an amount of the ledger may have 38. Pure.

Nothing here rounds but ``times`` and ``share``, to the 18 places that an amount carries."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Final

_DIGITS: Final = 76
_PLACE: Final = Decimal(1).scaleb(-18)


def plain(amount: Decimal) -> Decimal:
    """The same value without trailing zeros: ``5.00`` and ``5`` read the same, and zero has no sign."""
    with localcontext(prec=_DIGITS):
        return amount.normalize() + Decimal(0) if amount else Decimal(0)


def negated(amount: Decimal) -> Decimal:
    """Zero has no sign."""
    return amount.copy_negate() if amount else Decimal(0)


def plus(left: Decimal, right: Decimal) -> Decimal:
    with localcontext(prec=_DIGITS):
        return plain(left + right)


def minus(left: Decimal, right: Decimal) -> Decimal:
    with localcontext(prec=_DIGITS):
        return plain(left - right)


def total(amounts: Iterable[Decimal]) -> Decimal:
    added = Decimal(0)
    for amount in amounts:
        added = plus(added, amount)
    return added


def per(price: Decimal, count: int, unit: int) -> Decimal:
    """What ``count`` cost at ``price`` for ``unit`` of them, a power of ten; of a negative count a negative amount."""
    with localcontext(prec=_DIGITS):
        return plain(price * count / unit)


def times(price: Decimal, quantity: Decimal) -> Decimal:
    """To 18 places, as the ledger has it."""
    with localcontext(prec=_DIGITS):
        return plain((price * quantity).quantize(_PLACE))


def share(amount: Decimal, part: int, whole: int) -> Decimal:
    """``part`` of ``whole`` of the amount, to 18 places."""
    with localcontext(prec=_DIGITS):
        return plain((amount * part / whole).quantize(_PLACE))
