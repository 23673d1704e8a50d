"""The published price of a line's usage, from the price book: what FOCUS calls the list unit price.
Pure."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from shared.contracts.ledger import LedgerRow
from shared.contracts.prices import Price, PriceBook


class ListPrices:
    """The prices of the book that are for everybody. Of several that were valid in an hour, the one
    that started last counts; a line that was rated by one of them has its own price (its tier's),
    every other line the first tier's."""

    def __init__(self, book: PriceBook | None) -> None:
        self._prices = [price for price in book.prices if price.account is None] if book else []
        self._ids = {price.id for price in self._prices}

    def __call__(self, line: LedgerRow) -> Decimal:
        """The line's own price where the book has none for its currency and hour."""
        price = line.price or Decimal(0)
        at = line.hour
        if at is None or (
            line.plan is None and (line.price_id is None or line.price_id in self._ids)
        ):
            return price
        valid = [p for p in self._prices if p.currency == line.currency and _valid(p, at)]
        if not valid:
            return price
        latest = max(
            valid, key=lambda p: (p.start is not None, p.start.timestamp() if p.start else 0.0)
        )
        return min(latest.tiers, key=lambda tier: tier.above).price


def _valid(price: Price, at: datetime) -> bool:
    return (price.start is None or price.start <= at) and (price.end is None or at < price.end)
