"""The price books that were applied, one after the other."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from services.billing.domain.price_book import PriceLookup
from services.billing.store import Reader
from shared.contracts.prices import PriceBook
from shared.storage.pool import Connection

_CURRENT: Final = "select serial, body from price_books order by serial desc limit 1"
_ADD: Final = """
insert into price_books (serial, body, command_id, applied_at) values ($1, $2, $3, $4)
"""
_CHARGED: Final = """
select account, currency, sum(requests)::bigint as requests from ledger
where hour is not null and plan is null and at >= $1
group by account, currency having sum(requests) > 0
"""


class ChargedAccount(NamedTuple):
    """The requests that an account was charged for in a period, without those of plans."""

    account: str
    currency: str
    requests: int


async def load_current_prices(connection: Reader) -> PriceLookup:
    """Return the book with the highest serial; without any, the one that edgetls comes with."""
    row = await connection.fetchrow(_CURRENT)
    if row is None:
        return PriceLookup()
    return PriceLookup(row["serial"], PriceBook.model_validate_json(row["body"]))


async def find_serial(connection: Connection, command_id: str) -> int | None:
    """Return the serial of the book that a command applied, or None."""
    serial: int | None = await connection.fetchval(
        "select serial from price_books where command_id = $1", command_id
    )
    return serial


async def add_price_book(
    connection: Connection, prices: PriceLookup, command_id: str, at: datetime
) -> None:
    """Store a book. The caller holds the exclusive lock of owners: no usage is rated meanwhile."""
    body = prices.book.encode().decode()
    await connection.execute(_ADD, prices.serial, body, command_id, at)


async def load_charged_since(
    connection: Reader, at: datetime, days: int = 30
) -> list[ChargedAccount]:
    """Return what accounts were charged for in the ``days`` before ``at``."""
    rows = await connection.fetch(_CHARGED, at - timedelta(days=days))
    return [ChargedAccount(**dict(row)) for row in rows]
