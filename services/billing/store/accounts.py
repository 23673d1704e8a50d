"""Accounts, what they accrued by the hour, and the append-only ledger."""

# ruff: noqa: S608 - what is put into statements here is this module's own; everything else is a parameter
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from services.billing.balance import HOURS_OF_MEAN, Standing
from services.billing.rating import plain
from services.billing.store import Reader
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryCharges
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.storage.pool import Connection

_COLUMNS: Final = (
    "account, currency, ledger, entries, accrued_requests, threshold, recent_requests, recent_hours, low, depleted,"
    " crossing"
)
_RECENT: Final = f"""
select a.account, coalesce(sum(h.charged), 0)::bigint as requests, count(h.charged)::int as hours
from unnest($1::text[]) as a (account) left join lateral (
    select charged from account_hours where account = a.account and postings > 0 and charged > 0
    order by hour desc limit {HOURS_OF_MEAN}
) h on true group by a.account
"""


class Credit(NamedTuple):
    """A credit that is in the ledger."""

    amount: Decimal
    currency: str


class OpenHour(NamedTuple):
    """An hour of an account whose count and charge differ; ``postings``: how often it was charged already."""

    account: str
    hour: int
    requests: int
    postings: int


class Posting(NamedTuple):
    """A charge line to write. ``amount``: what it costs (a correction downwards is negative)."""

    account: str
    hour: int
    posting: int
    requests: int
    price: Decimal
    amount: Decimal
    currency: str


async def lock(connection: Connection, accounts: Iterable[str]) -> dict[str, Standing]:
    """Makes the rows that are missing, locks them all in order of the account."""
    ordered = sorted(set(accounts))
    await connection.execute(
        "insert into accounts (account) select a from unnest($1::text[]) as a order by a collate \"C\""
        " on conflict do nothing", ordered,
    )
    rows = await connection.fetch(
        f"select {_COLUMNS} from accounts where account = any($1::text[]) order by account for update", ordered
    )
    return {row["account"]: _standing(dict(row)) for row in rows}


async def read(connection: Reader, account: str) -> Standing:
    """As it is now, without a lock; one that never was has nothing."""
    row = await connection.fetchrow(f"select {_COLUMNS} from accounts where account = $1", account)
    return Standing(account) if row is None else _standing(dict(row))


async def save(connection: Connection, standings: Sequence[Standing]) -> None:
    """Writes back locked rows (never the threshold's time)."""
    if not standings:
        return
    await connection.execute(
        "update accounts a set currency = t.currency, ledger = t.ledger, entries = t.entries,"
        " accrued_requests = t.accrued, threshold = t.threshold, recent_requests = t.recent_requests,"
        " recent_hours = t.recent_hours, low = t.low, depleted = t.depleted, crossing = t.crossing"
        " from unnest($1::text[], $2::text[], $3::numeric[], $4::bigint[], $5::bigint[], $6::numeric[], $7::bigint[],"
        " $8::int[], $9::bool[], $10::bool[], $11::bigint[]) as t (account, currency, ledger, entries, accrued,"
        " threshold, recent_requests, recent_hours, low, depleted, crossing) where a.account = t.account",
        [s.account for s in standings], [s.currency for s in standings], [s.ledger for s in standings],
        [s.entries for s in standings], [s.accrued_requests for s in standings], [s.threshold for s in standings],
        [s.recent_requests for s in standings], [s.recent_hours for s in standings],
        [s.low for s in standings], [s.depleted for s in standings], [s.crossing for s in standings],
    )


async def accrue(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Adds requests to (account, hour); negative ones where usage moved to another owner. Accounts are locked."""
    rows = sorted((account, hour, requests) for (account, hour), requests in counts.items() if requests)
    if not rows:
        return
    await connection.execute(
        "insert into account_hours as h (account, hour, requests) select * from unnest($1::text[], $2::int[],"
        " $3::bigint[]) on conflict (account, hour) do update set requests = h.requests + excluded.requests",
        *(list(column) for column in zip(*rows, strict=True)),
    )


async def set_threshold(connection: Connection, account: str, at: datetime) -> bool:
    """Whether ``at`` is newer than the last change: two replicas may take two commands in either order."""
    return await connection.fetchval(
        "update accounts set threshold_at = $2 where account = $1 and (threshold_at is null or threshold_at < $2)"
        " returning true", account, at,
    ) is not None


async def credit_of(connection: Connection, account: str, reference: str) -> Credit | None:
    row = await connection.fetchrow(
        "select amount, currency from ledger where account = $1 and reference = $2", account, reference
    )
    return None if row is None else Credit(plain(row["amount"]), row["currency"])


async def add_credit(
    connection: Connection, account: str, reference: str, credit: Credit, command_id: str, at: datetime
) -> None:
    await connection.execute(
        "insert into ledger (account, kind, amount, currency, reference, command_id, at)"
        " values ($1, 'credit', $2, $3, $4, $5, $6)",
        account, credit.amount, credit.currency, reference, command_id, at,
    )


async def said(connection: Connection, message_id: str) -> bool:
    """Whether the message was written to the outbox before; the account is locked."""
    return await connection.fetchval("select true from outbox where message_id = $1", message_id) is not None


async def accounts_to_charge(connection: Reader, before_hour: int, most: int) -> list[str]:
    """Accounts with an hour before ``before_hour`` whose count and charge differ."""
    rows = await connection.fetch(
        "select distinct account from account_hours where hour < $1 and requests <> charged order by account limit $2",
        before_hour, most,
    )
    return [row["account"] for row in rows]


async def open_hours(connection: Connection, accounts: Sequence[str], before_hour: int) -> list[OpenHour]:
    """Of locked accounts, in order of account and hour; ``requests``: what is not charged yet."""
    rows = await connection.fetch(
        "select account, hour, requests - charged as requests, postings from account_hours"
        " where account = any($1::text[]) and hour < $2 and requests <> charged order by account, hour",
        accounts, before_hour,
    )
    return [OpenHour(**dict(row)) for row in rows]


async def post(connection: Connection, postings: Sequence[Posting], at: datetime) -> None:
    """Writes the lines and counts them as charged."""
    await connection.executemany(
        "insert into ledger (account, kind, amount, currency, hour, posting, requests, price, at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (p.account, "charge" if p.posting == 1 else "correction", -p.amount, p.currency, p.hour, p.posting,
             p.requests, p.price, at)
            for p in postings
        ],
    )
    await connection.executemany(
        "update account_hours set charged = charged + $3, postings = $4 where account = $1 and hour = $2",
        [(p.account, p.hour, p.requests, p.posting) for p in postings],
    )


async def recent(connection: Connection, accounts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Requests charged in the last closed hours with service, and how many hours those are."""
    rows = await connection.fetch(_RECENT, accounts)
    return {row["account"]: (row["requests"], row["hours"]) for row in rows}


async def page_charges(connection: Reader, question: QueryCharges) -> list[tuple[int, ChargeRow]]:
    """Charge lines with their ledger number, in order of (hour, number); ``after`` is page_mark() of the last seen."""
    hour, number = _after(question.after)
    rows = await connection.fetch(
        "select id, account, kind, hour, requests, price, amount, currency from ledger where account = $1"
        " and hour >= $2 and hour < $3 and (hour, id) > ($4, $5) order by hour, id limit $6",
        question.account, _hour_up(question.start), _hour_up(question.end), hour, number, question.limit,
    )
    return [
        (
            row["id"],
            ChargeRow(
                account=row["account"], hour=hour_time(row["hour"]), kind=row["kind"], requests=row["requests"],
                price=plain(row["price"]), amount=plain(-row["amount"]), currency=row["currency"],
            ),
        )
        for row in rows
    ]


def page_mark(number: int, row: ChargeRow) -> str:
    return f"{int(row.hour.timestamp()) // 3600}|{number}"


def hour_time(hour: int) -> datetime:
    """The start of an hour given in hours of Unix time."""
    return datetime.fromtimestamp(0, UTC) + timedelta(hours=hour)


def _after(mark: str | None) -> tuple[int, int]:
    if mark is None:
        return -1, -1
    hour, _, number = mark.partition("|")
    if not (hour.isdecimal() and number.isdecimal() and len(hour) < 9 and len(number) < 18):
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return int(hour), int(number)


def _hour_up(at: datetime) -> int:
    return max(-int(-at.timestamp() // 3600), 0)


def _standing(row: dict[str, object]) -> Standing:
    return Standing(**row)  # type: ignore[arg-type]
