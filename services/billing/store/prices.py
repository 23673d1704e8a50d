"""The price books that were applied, one after the other."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from services.billing.domain.price_book import PriceLookup
from services.billing.store import Reader
from shared.contracts.prices import PriceBook
from shared.storage.pool import Connection


class ChargedAccount(NamedTuple):
    """What an account was charged for in a period."""

    account: str
    currency: str
    requests: int


async def load_current_prices(connection: Reader) -> PriceLookup:
    row = await connection.fetchrow(
        "select serial, body from price_books order by serial desc limit 1"
    )
    return (
        PriceLookup()
        if row is None
        else PriceLookup(row["serial"], PriceBook.model_validate_json(row["body"]))
    )


async def find_serial(connection: Connection, command_id: str) -> int | None:
    """Of the book that the command applied."""
    found: int | None = await connection.fetchval(
        "select serial from price_books where command_id = $1", command_id
    )
    return found


async def add_price_book(
    connection: Connection, prices: PriceLookup, command_id: str, at: datetime
) -> None:
    """The caller holds the owners exclusively: nobody rates meanwhile."""
    await connection.execute(
        "insert into price_books (serial, body, command_id, applied_at) values ($1, $2, $3, $4)",
        prices.serial,
        prices.book.encode().decode(),
        command_id,
        at,
    )


async def load_charged_since(
    connection: Reader, at: datetime, days: int = 30
) -> list[ChargedAccount]:
    rows = await connection.fetch(
        "select account, currency, sum(requests)::bigint as requests from ledger where hour is "
        "not null"
        " and plan is null and at >= $1 group by account, currency having sum(requests) > 0",
        at - timedelta(days=days),
    )
    return [ChargedAccount(**dict(row)) for row in rows]
