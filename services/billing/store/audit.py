"""The data of an audit: the archive, what was recorded from it, and the ledger.

All functions read in one snapshot, which the caller opens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from services.billing.domain.audit_compare import (
    BilledAccount,
    RecordedLine,
    UsageCounts,
    UsageKey,
)
from services.billing.domain.charging import BoughtPlan, HourCount
from services.billing.domain.rating import DEFAULT_CURRENCY
from services.billing.domain.units import (
    UnixDay,
    UnixHour,
    UnixMinute,
    minute_of,
    month_start,
)
from services.billing.store.columns import ACCOUNT_HOURS
from shared.money import plain
from shared.storage.pool import Connection

AUDIT_SECONDS: Final = 600
"""A query of an audit may read a month: the 30 s of the pool are not enough."""
_RECEIVED_LATE: Final = timedelta(days=35, hours=1)
_RECEIVED_EARLY: Final = timedelta(minutes=6)
_LATE_DAYS: Final = 36
_ARCHIVE: Final = """
select node, cells, received_at, bad_lines from batch_archive
where received_at >= $1 and received_at < $2
    and (first_minute is null or (last_minute >= $3 and first_minute < $4))
"""
_SINGLE_EVENTS: Final = """
select domain, (at / 60000000)::int as minute, node, count(*)::bigint as requests,
    sum(bytes)::bigint as bytes
from requests
where day >= $1 / 1440 and day <= ($2 - 1) / 1440
    and at >= $1 * 60000000::bigint and at < $2 * 60000000::bigint
    and day not in (select day from request_days_kept where done)
group by 1, 2, 3
union all
select domain, minute, node, requests, bytes from request_days
where minute >= $1 and minute < $2
    and minute / 1440 in (select day from request_days_kept where done)
"""
_MINUTES: Final = """
select account, domain, node, minute / 60 as hour,
    sum(https_requests)::bigint as https_requests, sum(https_bytes)::bigint as https_bytes,
    sum(http_requests)::bigint as http_requests, sum(http_bytes)::bigint as http_bytes
from usage_minutes where minute >= $1 * 60 and minute < $2 * 60 group by 1, 2, 3, 4
"""
_HOURS: Final = """
select account, domain, node, hour, https_requests, https_bytes, http_requests, http_bytes
from usage_hours where hour >= $1 and hour < $2
"""
_HOLES: Final = """
select node, log, expected, start_at from (
    select node, log, start_at,
        lag(end_at) over (partition by node, log order by start_at, end_at) as expected
    from batch_archive where received_at >= $1 and received_at < $2
) ranges where expected is not null and expected <> start_at limit 1000
"""
_DOUBLE_COUNTS: Final = """
select source, id, count(*) as times from requests where day >= $1 and day <= $2
group by source, id having count(*) > 1 limit 1000
"""
_WRONG_PLAN_COSTS: Final = """
select account, reference, amount, parts from plans p cross join lateral (
    select coalesce(sum(l.plan_cost), 0) as parts from ledger l
    where l.account = p.account and l.hour >= p.start_hour and l.hour < p.end_hour
        and l.plan = p.reference
) l where p.ended and p.end_hour > $1 and p.end_hour <= $2 and parts <> amount limit 1000
"""
_WRONG_LEDGERS: Final = """
select a.account, a.ledger as recorded, coalesce(sum(l.amount), 0) as lines
from accounts a left join ledger l on l.account = a.account
group by a.account having a.ledger <> coalesce(sum(l.amount), 0) limit 1000
"""
_PLANS: Final = """
select p.account, p.reference, p.requests, p.start_hour, p.end_hour, p.amount, a.rate_from
from plans p join accounts a using (account) where account = any($1::text[])
"""
_CHARGED_HOURS: Final = f"""
select h.account, h.hour, h.charged, h.postings from {ACCOUNT_HOURS.unnest("f")}
join account_hours h on h.account = f.account and h.hour >= f.hour and h.postings > 0 order by 1, 2
"""
_LEDGER_LINES: Final = f"""
select l.account, l.hour, sum(l.requests)::bigint as requests, -sum(l.amount) as amount,
    l.price_id, l.plan
from {ACCOUNT_HOURS.unnest("f")}
join ledger l on l.account = f.account and l.hour >= f.hour and l.kind <> 'unused'
group by l.account, l.hour, l.price_id, l.plan
"""
_CURRENCIES: Final = """
select account, currency from accounts where account = any($1::text[]) and currency is not null
"""
_ACCOUNT_HOURS: Final = """
select account, hour, requests, charged from account_hours where hour >= $1 and hour < $2
"""


class AuditedBatch(NamedTuple):
    """A batch as the archive has it. ``cells``: packed (domain/wire_format.py)."""

    node: str
    cells: bytes
    received_at: datetime
    bad_lines: int


class EventCount(NamedTuple):
    """The single events of one domain, minute and node."""

    domain: str
    minute: UnixMinute
    node: str
    requests: int
    bytes: int


class AccountHourRow(NamedTuple):
    """The counted and the charged requests of one account and hour."""

    account: str
    hour: UnixHour
    requests: int
    charged: int


async def read_archive(
    connection: Connection, start: datetime, end: datetime
) -> AsyncIterator[AuditedBatch]:
    """Yield every archived batch that may have cells of the period [start, end)."""
    rows = connection.cursor(
        _ARCHIVE,
        start - _RECEIVED_EARLY,
        end + _RECEIVED_LATE,
        minute_of(start),
        minute_of(end),
        prefetch=100,
        timeout=AUDIT_SECONDS,
    )
    async for row in rows:
        yield AuditedBatch(**dict(row))


async def read_single_events(
    connection: Connection, start: UnixMinute, end: UnixMinute
) -> AsyncIterator[EventCount]:
    """Yield the single events of the minutes [start, end), added up."""
    rows = connection.cursor(_SINGLE_EVENTS, start, end, prefetch=2000, timeout=AUDIT_SECONDS)
    async for row in rows:
        yield EventCount(**dict(row))


async def load_recorded_usage(
    connection: Connection, start: UnixHour, end: UnixHour, minutes_from: UnixHour
) -> tuple[dict[UsageKey, UsageCounts], dict[UsageKey, UsageCounts]]:
    """Return the usage of the hours [start, end) as the minutes have it, and as the hours have it.

    Hours that are marked to be rolled up anew are in the first only; hours before ``minutes_from``
    are in the second only."""
    minutes = await connection.fetch(_MINUTES, start, end, timeout=AUDIT_SECONDS)
    hours = await connection.fetch(_HOURS, start, end, timeout=AUDIT_SECONDS)
    marks = await connection.fetch(
        "select hour from touched_hours where hour >= $1 and hour < $2", start, end
    )
    touched = {row["hour"] for row in marks}
    by_minute = {}
    for row in minutes:
        if row["hour"] >= minutes_from:
            by_minute[_usage_key(row)] = _usage_counts(row)
    by_hour = {}
    for row in hours:
        if row["hour"] not in touched:
            by_hour[_usage_key(row)] = _usage_counts(row)
    return by_minute, by_hour


def _usage_key(row: Any) -> UsageKey:
    return UsageKey(row["account"], row["domain"], row["node"], row["hour"])


def _usage_counts(row: Any) -> UsageCounts:
    return row["https_requests"], row["https_bytes"], row["http_requests"], row["http_bytes"]


async def load_account_hours(
    connection: Connection, start: UnixHour, end: UnixHour
) -> list[AccountHourRow]:
    """Return what was accrued and charged in the hours [start, end)."""
    rows = await connection.fetch(_ACCOUNT_HOURS, start, end, timeout=AUDIT_SECONDS)
    return [AccountHourRow(**dict(row)) for row in rows]


async def load_billed_accounts(
    connection: Connection, accounts: Sequence[str], first: UnixHour
) -> list[BilledAccount]:
    """Return accounts with what they were charged, from the start of each one's rating.

    That is the month of its first plan, or ``first``, the first hour of a month. A plan that a
    charge is still to be made for does not count yet."""
    starts: dict[str, UnixHour] = dict.fromkeys(accounts, first)
    billed = {account: BilledAccount(account, DEFAULT_CURRENCY) for account in accounts}
    for row in await connection.fetch(_PLANS, accounts):
        account = row["account"]
        starts[account] = min(starts[account], month_start(row["start_hour"]))
        if row["rate_from"] is None or row["start_hour"] < row["rate_from"]:
            plan = BoughtPlan(
                reference=row["reference"],
                requests=row["requests"],
                start=row["start_hour"],
                end=row["end_hour"],
                price=plain(row["amount"]),
            )
            billed[account].plans.append(plan)
    parameters = [list(starts), list(starts.values())]
    for row in await connection.fetch(_CHARGED_HOURS, *parameters, timeout=AUDIT_SECONDS):
        charged = row["charged"]
        count = HourCount(row["hour"], charged, charged=charged, postings=row["postings"])
        billed[row["account"]].hours.append(count)
    for row in await connection.fetch(_LEDGER_LINES, *parameters, timeout=AUDIT_SECONDS):
        line = RecordedLine(
            hour=row["hour"],
            requests=row["requests"],
            amount=plain(row["amount"]),
            price_id=row["price_id"],
            plan=row["plan"],
        )
        billed[row["account"]].lines.append(line)
    for row in await connection.fetch(_CURRENCIES, accounts):
        billed[row["account"]].currency = row["currency"]
    return list(billed.values())


async def find_archive_holes(
    connection: Connection, start: datetime, end: datetime
) -> list[tuple[str, int, int]]:
    """Return where archived ranges of a log do not join: log, expected start, start."""
    rows = await connection.fetch(_HOLES, start, end, timeout=AUDIT_SECONDS)
    return [(f"{row['node']}/{row['log']}", row["expected"], row["start_at"]) for row in rows]


async def find_double_counts(
    connection: Connection, first: UnixDay, last: UnixDay
) -> list[tuple[str, int]]:
    """Return single events that were counted on two days, with their number of times.

    It happens when two processes take the same identity at the same moment."""
    rows = await connection.fetch(
        _DOUBLE_COUNTS, first - _LATE_DAYS, last + _LATE_DAYS, timeout=AUDIT_SECONDS
    )
    return [(f"{row['source']}/{row['id']}", row["times"]) for row in rows]


async def find_wrong_ledgers(connection: Connection) -> list[tuple[str, Decimal, Decimal]]:
    """Return accounts whose ledger is not the sum of its lines: account, sum, recorded."""
    rows = await connection.fetch(_WRONG_LEDGERS, timeout=AUDIT_SECONDS)
    return [(row["account"], plain(row["lines"]), plain(row["recorded"])) for row in rows]


async def find_wrong_plan_costs(
    connection: Connection, start: UnixHour, end: UnixHour
) -> list[tuple[str, Decimal, Decimal]]:
    """Return plans that ended in the hours [start, end) and whose parts do not add up.

    The plan, its price, the sum of its parts."""
    found = []
    for row in await connection.fetch(_WRONG_PLAN_COSTS, start, end, timeout=AUDIT_SECONDS):
        plan = f"{row['account']} plan {row['reference']}"
        found.append((plan, plain(row["amount"]), plain(row["parts"])))
    return found
