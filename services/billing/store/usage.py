"""Usage by domain, node and minute: written as it comes, and rolled up by the hour.

``usage_queries.py`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from services.billing.domain.ownership import OwnershipPeriod
from services.billing.domain.units import UnixHour, hour_of_minute
from services.billing.domain.usage_aggregator import MinuteRow
from services.billing.store import MAINTENANCE_SECONDS, Reader
from services.billing.store.columns import RowColumns, join_numbers, join_texts, unnest_texts
from services.billing.store.retention import load_limits
from shared.storage.pool import Connection

_COUNTS: Final = ("https_requests", "https_bytes", "http_requests", "http_bytes")
_COUNT_NAMES: Final = ", ".join(_COUNTS)
_PERIOD_COLUMNS: Final = RowColumns(account="text", start_minute="int", end_minute="int")


def _added_counts(table: str, added: str) -> str:
    """Return ``https_requests = u.https_requests + added.https_requests, …``."""
    return ", ".join(f"{count} = {table}.{count} + {added}.{count}" for count in _COUNTS)


def _summed_counts(table: str) -> str:
    """Return ``sum(table.https_requests)::bigint as https_requests, …``."""
    return ", ".join(f"sum({table}.{count})::bigint as {count}" for count in _COUNTS)


_COLUMN_TYPES: Final = ("text", "int", "text", "text", "bigint", "bigint", "bigint", "bigint")
_ADD: Final = f"""
insert into usage_minutes as u (domain, minute, node, account, {_COUNT_NAMES})
select * from {unnest_texts(*_COLUMN_TYPES)}
on conflict (domain, minute, node) do update set {_added_counts("u", "excluded")}
"""
# $1: domain; $2 to $4: its periods; $5: the first hour whose minutes are whole.
_PERIODS: Final = f"""
with periods as (select * from {_PERIOD_COLUMNS.unnest("p", first=2)}),
wrong as (
    select m.domain, m.minute, m.node, m.account as was, coalesce(p.account, '') as becomes,
        m.https_requests
    from usage_minutes m
    left join periods p on m.minute >= p.start_minute and m.minute < p.end_minute
    where m.domain = $1 and m.account <> coalesce(p.account, '') and m.minute >= $5 * 60
)
"""
_SHIFTS: Final = f"""
{_PERIODS}
select minute / 60 as hour, was, becomes, sum(https_requests)::bigint as requests from wrong
group by 1, 2, 3
"""
_REATTRIBUTE: Final = f"""
{_PERIODS}
update usage_minutes m set account = w.becomes from wrong w
where m.domain = w.domain and m.minute = w.minute and m.node = w.node
"""
# For an hour of which other minutes were forgotten. The rows of usage_hours are all that is left of
# it, so the usage moves there, from the row without an owner to the owner's row.
_FIND_OWNER: Final = f"""
with periods as (select * from {_PERIOD_COLUMNS.unnest("p", first=2)}),
found as (
    delete from usage_minutes m using periods p
    where m.domain = $1 and m.account = '' and m.minute < $5 * 60
        and m.minute >= p.start_minute and m.minute < p.end_minute
    returning m.minute / 60 as hour, m.node, p.account, {_COUNT_NAMES}
),
moved as (select hour, node, account, {_summed_counts("found")} from found group by 1, 2, 3),
taken as (
    update usage_hours u set {", ".join(f"{c} = u.{c} - f.{c}" for c in _COUNTS)}
    from (select hour, node, {_summed_counts("moved")} from moved group by 1, 2) f
    where u.domain = $1 and u.hour = f.hour and u.node = f.node and u.account = ''
),
given as (
    insert into usage_hours as u (domain, hour, node, account, {_COUNT_NAMES})
    select $1, hour, node, account, {_COUNT_NAMES} from moved
    on conflict (domain, hour, node, account) do update set {_added_counts("u", "excluded")}
)
select hour, '' as was, account as becomes, sum(https_requests)::bigint as requests from moved
group by 1, 3
"""
_TAKE_MARKS: Final = """
with marks as (delete from touched_hours where hour = $1 returning hour) select count(*) from marks
"""
_TO_ROLL: Final = "select distinct hour from touched_hours where hour < $1 order by hour"
_FILL_HOUR: Final = f"""
insert into usage_hours (domain, hour, node, account, {_COUNT_NAMES})
select domain, $1, node, account, {", ".join(f"sum({count})" for count in _COUNTS)}
from usage_minutes where minute >= $1 * 60 and minute < ($1 + 1) * 60 group by domain, node, account
"""


class OwnerShift(NamedTuple):
    """Requests of one hour that turned out to be another account's."""

    hour: UnixHour
    was: str
    becomes: str
    requests: int


async def add_minutes(connection: Connection, rows: Sequence[MinuteRow]) -> None:
    """Add usage, and mark its hours as touched. ``rows`` are sorted, each key once."""
    if not rows:
        return
    domains, minutes, nodes, accounts, *counts = zip(*rows, strict=True)
    await connection.execute(
        _ADD,
        join_texts(domains),
        join_numbers(minutes),
        join_texts(nodes),
        join_texts(accounts),
        *map(join_numbers, counts),
    )
    await touch_hours(connection, {hour_of_minute(minute) for minute in set(minutes)})


async def touch_hours(connection: Connection, hours: Iterable[UnixHour]) -> None:
    """Mark hours to be rolled up anew.

    The mark becomes visible together with the rows: who sees one sees the other, so no lock is
    needed."""
    await connection.execute(
        "insert into touched_hours (hour) select unnest($1::int[])", sorted(set(hours))
    )


async def reattribute_domain(
    connection: Connection, domain: str, periods: Sequence[OwnershipPeriod]
) -> list[OwnerShift]:
    """Give the usage of a domain to its owners by ``periods``; return what moved.

    The caller holds the exclusive lock of owners. Where minutes are forgotten, only usage without
    an owner still moves."""
    columns = _PERIOD_COLUMNS.from_tuples([(one.account, one.start, one.end) for one in periods])
    parameters = [domain, *columns, (await load_limits(connection)).minutes_from]
    rows = await connection.fetch(_SHIFTS, *parameters)
    if rows:
        await connection.execute(_REATTRIBUTE, *parameters)
        await touch_hours(connection, {row["hour"] for row in rows})
    rows += await connection.fetch(_FIND_OWNER, *parameters)
    return [OwnerShift(**dict(row)) for row in rows]


async def find_hours_to_roll(connection: Reader, end: UnixHour) -> list[UnixHour]:
    """Return the hours before ``end`` that have a mark."""
    rows = await connection.fetch(_TO_ROLL, end)
    return [row["hour"] for row in rows]


async def roll_hour(connection: Connection, hour: UnixHour) -> None:
    """Add the minutes of an hour up, and take its marks away.

    Needs repeatable read: the marks and the minutes must be of one snapshot. Never of an hour whose
    minutes are not whole: what was added up of them before is all that is left."""
    # Each transaction that adds usage also inserts a mark, and queries read an hour that has a mark
    # from its minutes. Usage that is committed after this snapshot has a mark that this snapshot
    # does not see and cannot delete: so the hour stays marked and is rolled up again.
    marks = await connection.fetchval(_TAKE_MARKS, hour)
    if marks and hour >= (await load_limits(connection)).minutes_from:
        await connection.execute(
            "delete from usage_hours where hour = $1", hour, timeout=MAINTENANCE_SECONDS
        )
        await connection.execute(_FILL_HOUR, hour, timeout=MAINTENANCE_SECONDS)
