"""Accounts, what they accrued by the hour, and the append-only ledger."""

# parameter
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from services.billing.domain.balance import (
    HOURS_OF_MEAN,
    AccountState,
    PricingContext,
    with_current_tariff,
)
from services.billing.domain.charging import ChargeLine
from services.billing.store import Reader
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryCharges
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.money import plain, total
from shared.storage.pool import Connection

_COLUMNS: Final = ", ".join(field for field in AccountState._fields if field != "tariff")
_RECENT: Final = f"""
select a.account, coalesce(sum(h.amount), 0) as amount, count(h.amount)::int as hours
from unnest($1::text[]) as a (account) left join lateral (
    select amount from account_hours where account = a.account and postings > 0 and charged > 0
    order by hour desc limit {HOURS_OF_MEAN}
) h on true group by a.account
"""


class LedgerEntry(NamedTuple):
    """A ledger line that is no charge: a credit (above 0) or a plan that was bought (below)."""

    kind: Literal["credit", "plan"]
    amount: Decimal
    currency: str
    reference: str


async def lock_accounts(
    connection: Connection, accounts: Iterable[str], terms: PricingContext
) -> dict[str, AccountState]:
    """Makes the rows that are missing, locks them all in order of the account; with the prices of
    now."""
    ordered = sorted(set(accounts))
    await connection.execute(
        "insert into accounts (account) select a from unnest($1::text[]) as a order by a "
        'collate "C"'
        " on conflict do nothing",
        ordered,
    )
    rows = await connection.fetch(
        f"select {_COLUMNS} from accounts where account = any($1::text[]) order by account for "
        "update",
        ordered,
    )
    return {row["account"]: with_current_tariff(AccountState(*row), terms) for row in rows}


async def read_account(connection: Reader, account: str, terms: PricingContext) -> AccountState:
    """As it is now, without a lock; one that never was has nothing."""
    row = await connection.fetchrow(f"select {_COLUMNS} from accounts where account = $1", account)
    return with_current_tariff(AccountState(account) if row is None else AccountState(*row), terms)


async def save_accounts(connection: Connection, standings: Sequence[AccountState]) -> None:
    """Writes back locked rows (never the threshold's time)."""
    if not standings:
        return
    await connection.execute(
        "update accounts a set currency = t.currency, ledger = t.ledger, entries = t.entries,"
        " accrued_requests = t.accrued, threshold = t.threshold, recent_amount = t.recent_amount,"
        " recent_hours = t.recent_hours, low = t.low, depleted = t.depleted, crossing = t.crossing,"
        " overdue = t.overdue, depleted_since = t.depleted_since, plan_left = t.plan_left, "
        "tier_key = t.tier_key,"
        " tier_used = t.tier_used, rate_from = t.rate_from"
        " from unnest($1::text[], $2::text[], $3::numeric[], $4::bigint[], $5::bigint[], "
        "$6::numeric[], $7::numeric[],"
        " $8::int[], $9::bool[], $10::bool[], $11::bigint[], $12::bool[], $13::timestamptz[], "
        "$14::bigint[],"
        " $15::text[], $16::bigint[], $17::int[]) as t (account, currency, ledger, entries, "
        "accrued, threshold,"
        " recent_amount, recent_hours, low, depleted, crossing, overdue, depleted_since, "
        "plan_left, tier_key,"
        " tier_used, rate_from) where a.account = t.account",
        [s.account for s in standings],
        [s.currency for s in standings],
        [s.ledger for s in standings],
        [s.entries for s in standings],
        [s.accrued_requests for s in standings],
        [s.threshold for s in standings],
        [s.recent_amount for s in standings],
        [s.recent_hours for s in standings],
        [s.low for s in standings],
        [s.depleted for s in standings],
        [s.crossing for s in standings],
        [s.overdue for s in standings],
        [s.depleted_since for s in standings],
        [s.plan_left for s in standings],
        [s.tier_key for s in standings],
        [s.tier_used for s in standings],
        [s.rate_from for s in standings],
    )


async def add_accrued(connection: Connection, requests: Mapping[str, int]) -> None:
    """Adds accrued requests to locked accounts whose flags stay as they are."""
    if not requests:
        return
    await connection.execute(
        "update accounts a set accrued_requests = a.accrued_requests + t.requests"
        " from unnest($1::text[], $2::bigint[]) as t (account, requests) where a.account = "
        "t.account",
        list(requests),
        list(requests.values()),
    )


async def add_account_hours(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Adds requests to (account, hour); negative ones where usage moved to another owner. Accounts
    are locked."""
    rows = sorted(
        (account, hour, requests) for (account, hour), requests in counts.items() if requests
    )
    if not rows:
        return
    await connection.execute(
        "insert into account_hours as h (account, hour, requests) select * from "
        "unnest($1::text[], $2::int[],"
        " $3::bigint[]) on conflict (account, hour) do update set requests = h.requests + "
        "excluded.requests",
        *(list(column) for column in zip(*rows, strict=True)),
    )


async def set_threshold_time(connection: Connection, account: str, at: datetime) -> bool:
    """Whether ``at`` is newer than the last change: two replicas may take two commands in either
    order."""
    return (
        await connection.fetchval(
            "update accounts set threshold_at = $2 where account = $1 and (threshold_at is "
            "null or threshold_at < $2)"
            " returning true",
            account,
            at,
        )
        is not None
    )


async def find_entry(connection: Connection, account: str, reference: str) -> LedgerEntry | None:
    row = await connection.fetchrow(
        "select kind, amount, currency, reference from ledger where account = $1 and reference "
        "= $2",
        account,
        reference,
    )
    return (
        None
        if row is None
        else LedgerEntry(row["kind"], plain(row["amount"]), row["currency"], row["reference"])
    )


async def add_entry(
    connection: Connection, account: str, entry: LedgerEntry, command_id: str, at: datetime
) -> None:
    await connection.execute(
        "insert into ledger (account, kind, amount, currency, reference, plan, command_id, at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8)",
        account,
        *entry,
        entry.reference if entry.kind == "plan" else None,
        command_id,
        at,
    )


async def is_in_outbox(connection: Connection, message_id: str) -> bool:
    """Whether the message was written to the outbox before; the account is locked."""
    return (
        await connection.fetchval("select true from outbox where message_id = $1", message_id)
        is not None
    )


async def find_accounts_to_charge(
    connection: Reader, past: int, most: int, without: Iterable[str] = ()
) -> list[str]:
    """Accounts with an hour before ``past`` whose count and charge differ, or that must be rated
    anew; with a plan that has ended by then."""
    rows = await connection.fetch(
        "select account from (select account from account_hours where hour < $1 and requests "
        "<> charged"
        " union select account from accounts where rate_from < $1"
        " union select account from plans where not ended and end_hour <= $1) due where "
        "account <> all($3::text[])"
        " order by account limit $2",
        past,
        most,
        list(without),
    )
    return [row["account"] for row in rows]


async def first_hours_to_rate(
    connection: Connection, accounts: Sequence[str], past: int
) -> dict[str, int]:
    """Of locked accounts: from which hour on each must be rated; ``past`` where there is nothing to
    rate."""
    rows = await connection.fetch(
        "select a.account, least(a.rate_from, (select min(hour) from account_hours h where "
        "h.account = a.account"
        " and h.hour < $2 and h.requests <> h.charged), $2) as hour from accounts a where "
        "a.account = any($1::text[])"
        " order by a.account",
        accounts,
        past,
    )
    return {row["account"]: row["hour"] for row in rows}


async def post_lines(
    connection: Connection,
    made: Mapping[str, Sequence[ChargeLine]],
    currencies: Mapping[str, str],
    at: datetime,
) -> None:
    """Writes the lines of locked accounts, the first of an hour as its charge, later ones as
    corrections."""
    await connection.executemany(
        "insert into ledger (account, kind, amount, currency, hour, posting, line, requests, "
        "price, price_id, plan,"
        " plan_cost, at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        [
            (
                account,
                "charge" if line.posting == 1 else "correction",
                -line.amount,
                currencies[account],
                line.hour,
                line.posting,
                line.line,
                line.requests,
                line.price,
                line.price_id,
                line.plan,
                line.plan_cost,
                at,
            )
            for account, lines in made.items()
            for line in lines
        ],
    )
    hours: dict[tuple[str, int], list[ChargeLine]] = defaultdict(list)
    for account, lines in made.items():
        for line in lines:
            hours[account, line.hour].append(line)
    await connection.executemany(
        "update account_hours set charged = charged + $3, amount = amount + $4, postings = $5"
        " where account = $1 and hour = $2",
        [
            (
                *key,
                sum(line.requests for line in lines),
                total(line.amount for line in lines),
                lines[0].posting,
            )
            for key, lines in hours.items()
        ],
    )


async def load_recent_charges(
    connection: Connection, accounts: Sequence[str]
) -> dict[str, tuple[Decimal, int]]:
    """What was charged for the last closed hours with service, and how many hours those are."""
    rows = await connection.fetch(_RECENT, accounts)
    return {row["account"]: (plain(row["amount"]), row["hours"]) for row in rows}


async def load_tier_uses(
    connection: Connection, standings: Sequence[AccountState]
) -> dict[str, int]:
    """What each was charged for this month at its current price."""
    keys = [
        (standing.account, *(standing.tier_key or "0:").split(":", 1)) for standing in standings
    ]
    rows = await connection.fetch(
        "select account, requests from tier_uses where (account, month, price_id) in"
        " (select * from unnest($1::text[], $2::int[], $3::text[]))",
        [account for account, _, _ in keys],
        [int(month) for _, month, _ in keys],
        [price for _, _, price in keys],
    )
    return {row["account"]: row["requests"] for row in rows}


async def find_long_depleted(
    connection: Reader, since: datetime, most: int, without: Iterable[str] = ()
) -> list[str]:
    """Accounts that were depleted before ``since`` and are not overdue yet."""
    rows = await connection.fetch(
        "select account from accounts where depleted and not overdue and depleted_since <= $1"
        " and account <> all($3::text[]) order by account limit $2",
        since,
        most,
        list(without),
    )
    return [row["account"] for row in rows]


async def page_charges(connection: Reader, question: QueryCharges) -> list[tuple[int, ChargeRow]]:
    """Charge lines with their ledger number, in order of (hour, number); ``after`` is page_mark()
    of the last seen."""
    hour, number = _parse_mark(question.after)
    rows = await connection.fetch(
        "select id, account, kind, hour, requests, price, amount, currency, price_id, plan "
        "from ledger"
        " where account = $1 and hour >= $2 and hour < $3 and (hour, id) > ($4, $5) and kind "
        "<> 'unused'"
        " order by hour, id limit $6",
        question.account,
        _hour_up(question.start),
        _hour_up(question.end),
        hour,
        number,
        question.limit,
    )
    return [
        (
            row["id"],
            ChargeRow(
                account=row["account"],
                hour=hour_time(row["hour"]),
                kind=row["kind"],
                requests=row["requests"],
                price=plain(row["price"]),
                amount=plain(-row["amount"]),
                currency=row["currency"],
                price_id=row["price_id"],
                plan=row["plan"],
            ),
        )
        for row in rows
    ]


def charge_mark(number: int, row: ChargeRow) -> str:
    return f"{int(row.hour.timestamp()) // 3600}|{number}"


def hour_time(hour: int) -> datetime:
    """The start of an hour given in hours of Unix time."""
    return datetime.fromtimestamp(0, UTC) + timedelta(hours=hour)


def _parse_mark(mark: str | None) -> tuple[int, int]:
    if mark is None:
        return -1, -1
    hour, _, number = mark.partition("|")
    if not (hour.isdecimal() and number.isdecimal() and len(hour) < 9 and len(number) < 18):
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return int(hour), int(number)


def _hour_up(at: datetime) -> int:
    return max(-int(-at.timestamp() // 3600), 0)
