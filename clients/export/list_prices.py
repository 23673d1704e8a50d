"""Find the published price of a ledger line's usage: the list unit price of FOCUS. Pure."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from shared.contracts.ledger import LedgerRow
from shared.contracts.prices import Price, PriceBook


class ListPrices:
    """The prices of the book that hold for every account.

    Of several that were valid in an hour, the one that started last counts."""

    def __init__(self, book: PriceBook | None) -> None:
        self._prices: list[Price] = []
        if book is not None:
            self._prices = [price for price in book.prices if price.account is None]
        self._ids = {price.id for price in self._prices}

    def __call__(self, line: LedgerRow) -> Decimal:
        """Return the list price of 10,000 requests for a line.

        A line that was rated by a list price has its own price, that of its tier. Every other line
        has the first tier's price, or its own price when the book has none for its currency and
        hour."""
        own_price = line.price or Decimal(0)
        if line.hour is None:
            return own_price
        # Rated by a list price already: its own price is that of the tier it was rated in.
        if line.plan is None and (line.price_id is None or line.price_id in self._ids):
            return own_price
        latest = self._find_latest(line.currency, line.hour)
        if latest is None:
            return own_price
        return min(latest.tiers, key=lambda tier: tier.above).price

    def _find_latest(self, currency: str, at: datetime) -> Price | None:
        """Return the valid price that started last; one without a start came before all others."""
        latest: Price | None = None
        for price in self._prices:
            if price.currency != currency or not _is_valid(price, at):
                continue
            if latest is None or _started_later(price, latest):
                latest = price
        return latest


def _is_valid(price: Price, at: datetime) -> bool:
    return (price.start is None or price.start <= at) and (price.end is None or at < price.end)


def _started_later(price: Price, other: Price) -> bool:
    if price.start is None:
        return False
    return other.start is None or price.start > other.start
