"""What an audit reads: the archive, what was recorded from it, and the ledger. All in one snapshot
of the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from services.billing.domain.audit_compare import BilledAccount, UsageCounts, UsageKey
from services.billing.domain.charging import BoughtPlan, HourCount
from services.billing.domain.rating import DEFAULT_CURRENCY
from shared.money import plain
from shared.storage.pool import Connection

AUDIT_SECONDS: Final = 600
_LATE: Final = timedelta(days=35, hours=1)
_EARLY: Final = timedelta(minutes=6)
_BATCHES: Final = """
select node, cells, received_at, bad_lines from batch_archive where received_at >= $1
  and received_at < $2
and (first_minute is null or (last_minute >= $3 and first_minute < $4))
"""
_EVENTS: Final = """
select domain, (at / 60000000)::int as minute, node, count(*)::bigint as requests,
  sum(bytes)::bigint as bytes
from requests where day >= $1 / 1440 and day <= ($2 - 1) / 1440 and at >= $1 * 60000000::bigint
and at < $2 * 60000000::bigint and day not in (select day from request_days_kept where done)
group by 1, 2, 3
union all
select domain, minute, node, requests, bytes from request_days where minute >= $1 and minute < $2
and minute / 1440 in (select day from request_days_kept where done)
"""
_MINUTES: Final = """
select account, domain, node, minute / 60 as hour, sum(https_requests)::bigint,
  sum(https_bytes)::bigint,
    sum(http_requests)::bigint, sum(http_bytes)::bigint
from usage_minutes where minute >= $1 * 60 and minute < $2 * 60 group by 1, 2, 3, 4
"""
_HOURS: Final = """
select account, domain, node, hour, https_requests, https_bytes, http_requests, http_bytes
from usage_hours where hour >= $1 and hour < $2
"""
_HOLES: Final = """
select node, log, expected, start_at from (
    select node, log, start_at, lag(end_at) over (partition by node, log
      order by start_at, end_at) as expected
    from batch_archive where received_at >= $1 and received_at < $2
) ranges where expected is not null and expected <> start_at limit 1000
"""
_TWICE: Final = """
select source, id, count(*) as times from requests where day >= $1 and day <= $2
group by source, id having count(*) > 1 limit 1000
"""
_PLAN_COSTS: Final = """
select account, reference, amount, parts from plans p cross join lateral (
    select coalesce(sum(l.plan_cost), 0) as parts from ledger l where l.account = p.account
      and l.hour >= p.start_hour
    and l.hour < p.end_hour and l.plan = p.reference
) l where p.ended and p.end_hour > $1 and p.end_hour <= $2 and parts <> amount limit 1000
"""
_SUMS: Final = """
select a.account, a.ledger as recorded, coalesce(sum(l.amount), 0) as lines from accounts a
left join ledger l on l.account = a.account group by a.account having a.ledger <>
  coalesce(sum(l.amount), 0) limit 1000
"""


async def read_archive(
    connection: Connection, start: datetime, end: datetime
) -> AsyncIterator[tuple[str, bytes, datetime, int]]:
    """Node, packed cells, time of receipt and unreadable lines of every archived batch that may
    speak of the period."""
    first, past = int(start.timestamp()) // 60, int(end.timestamp()) // 60
    rows = connection.cursor(
        _BATCHES, start - _EARLY, end + _LATE, first, past, prefetch=100, timeout=AUDIT_SECONDS
    )
    async for row in rows:
        yield tuple(row)


async def read_single_events(
    connection: Connection, first: int, past: int
) -> AsyncIterator[tuple[str, int, str, int, int]]:
    """Domain, minute, node, requests and bytes of the single events of the minutes [first,
    past)."""
    async for row in connection.cursor(_EVENTS, first, past, prefetch=2000, timeout=AUDIT_SECONDS):
        yield tuple(row)


async def load_recorded_usage(
    connection: Connection, first: int, past: int, minutes_from: int
) -> tuple[dict[UsageKey, UsageCounts], dict[UsageKey, UsageCounts]]:
    """Of the hours [first, past): by minute and by hour. Hours that are marked to be rolled up anew
    are in the first only, hours before ``minutes_from`` in the second only."""
    minutes = await connection.fetch(_MINUTES, first, past, timeout=AUDIT_SECONDS)
    hours = await connection.fetch(_HOURS, first, past, timeout=AUDIT_SECONDS)
    touched = {
        row["hour"]
        for row in await connection.fetch(
            "select hour from touched_hours where hour >= $1 and hour < $2", first, past
        )
    }
    return (
        {UsageKey(*row[:4]): tuple(row)[4:] for row in minutes if row["hour"] >= minutes_from},
        {UsageKey(*row[:4]): tuple(row)[4:] for row in hours if row["hour"] not in touched},
    )


async def load_account_hours(
    connection: Connection, first: int, past: int
) -> list[tuple[str, int, int, int]]:
    """Account, hour, requests and charged of the hours [first, past)."""
    rows = await connection.fetch(
        "select account, hour, requests, charged from account_hours where hour >= $1 and hour < $2",
        first,
        past,
        timeout=AUDIT_SECONDS,
    )
    return [tuple(row) for row in rows]


async def load_billed_accounts(
    connection: Connection, accounts: Sequence[str], first: int
) -> list[BilledAccount]:
    """From the start of each one's rating: its first plan, or ``first`` (the first hour of a
    month).

    A plan that a charge is still to be made for does not count yet."""
    starts: dict[str, int] = dict.fromkeys(accounts, first)
    found = {account: BilledAccount(account, DEFAULT_CURRENCY) for account in accounts}
    for row in await connection.fetch(
        "select p.*, a.rate_from from plans p join accounts a using (account) where account = "
        "any($1::text[])",
        accounts,
    ):
        starts[row["account"]] = min(starts[row["account"]], month_start(row["start_hour"]))
        if row["rate_from"] is None or row["start_hour"] < row["rate_from"]:
            found[row["account"]].packs.append(
                BoughtPlan(
                    row["reference"],
                    row["requests"],
                    row["start_hour"],
                    row["end_hour"],
                    plain(row["amount"]),
                )
            )
    period = list(starts), list(starts.values())
    for row in await connection.fetch(
        "select h.account, h.hour, h.charged, h.postings from unnest($1::text[], $2::int[]) as "
        "f (account, hour)"
        " join account_hours h on h.account = f.account and h.hour >= f.hour and h.postings > "
        "0 order by 1, 2",
        *period,
        timeout=AUDIT_SECONDS,
    ):
        found[row["account"]].hours.append(
            HourCount(row["hour"], row["charged"], row["charged"], row["postings"])
        )
    for row in await connection.fetch(
        "select l.account, l.hour, sum(l.requests)::bigint as requests, -sum(l.amount) as "
        "amount, l.price_id, l.plan"
        " from unnest($1::text[], $2::int[]) as f (account, hour) join ledger l on l.account = "
        "f.account"
        " and l.hour >= f.hour and l.kind <> 'unused' group by l.account, l.hour, l.price_id, "
        "l.plan",
        *period,
        timeout=AUDIT_SECONDS,
    ):
        found[row["account"]].lines.append(
            (row["hour"], row["requests"], plain(row["amount"]), row["price_id"], row["plan"])
        )
    for row in await connection.fetch(
        "select account, currency from accounts where account = any($1::text[]) and currency "
        "is not null",
        accounts,
    ):
        found[row["account"]].currency = row["currency"]
    return list(found.values())


async def find_archive_holes(
    connection: Connection, start: datetime, end: datetime
) -> list[tuple[str, int, int]]:
    """Where the archived ranges of a log do not join: log, expected start, start."""
    rows = await connection.fetch(_HOLES, start, end, timeout=AUDIT_SECONDS)
    return [(f"{row['node']}/{row['log']}", row["expected"], row["start_at"]) for row in rows]


async def find_double_counts(
    connection: Connection, first_day: int, last_day: int
) -> list[tuple[str, int]]:
    """Identities of single events that were counted on two days: two processes took them at the
    same moment."""
    rows = await connection.fetch(_TWICE, first_day - 36, last_day + 36, timeout=AUDIT_SECONDS)
    return [(f"{row['source']}/{row['id']}", row["times"]) for row in rows]


async def find_wrong_ledgers(connection: Connection) -> list[tuple[str, Decimal, Decimal]]:
    """Accounts whose ledger is not the sum of its lines: account, lines, recorded."""
    rows = await connection.fetch(_SUMS, timeout=AUDIT_SECONDS)
    return [(row["account"], plain(row["lines"]), plain(row["recorded"])) for row in rows]


async def find_wrong_plan_costs(
    connection: Connection, first: int, past: int
) -> list[tuple[str, Decimal, Decimal]]:
    """Plans that ended in the hours [first, past) and whose parts are not their price: plan, price,
    parts."""
    rows = await connection.fetch(_PLAN_COSTS, first, past, timeout=AUDIT_SECONDS)
    return [
        (f"{row['account']} plan {row['reference']}", plain(row["amount"]), plain(row["parts"]))
        for row in rows
    ]


def month_start(hour: int) -> int:
    at = datetime.fromtimestamp(hour * 3600, UTC)
    return int(at.replace(day=1, hour=0).timestamp()) // 3600
