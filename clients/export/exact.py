"""Decimals without loss: the default context rounds at 28 digits, an amount of the ledger may have 38. Pure."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Final

_DIGITS: Final = 76
_PLACE: Final = Decimal(1).scaleb(-18)


def negated(amount: Decimal) -> Decimal:
    """Zero has no sign."""
    return amount.copy_negate() if amount else Decimal(0)


def plus(left: Decimal, right: Decimal) -> Decimal:
    with localcontext(prec=_DIGITS):
        return left + right


def times(price: Decimal, quantity: Decimal) -> Decimal:
    """To 18 places, as the ledger has it, without zeros at the end."""
    with localcontext(prec=_DIGITS):
        product = (price * quantity).quantize(_PLACE).normalize()
        return product + 0 if product else Decimal(0)
