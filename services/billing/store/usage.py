"""Usage per domain, node and minute: written as it comes, rolled up by the hour; read in
periods.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from services.billing.domain.ownership import OwnershipPeriod
from services.billing.domain.usage_aggregator import MinuteRow
from services.billing.store import MAINTENANCE_SECONDS, Reader
from services.billing.store.columns import (
    join_numbers,
    join_texts,
    split_bigints,
    split_ints,
    split_texts,
)
from services.billing.store.retention import load_limits
from shared.storage.pool import Connection

_COUNTS: Final = ("https_requests", "https_bytes", "http_requests", "http_bytes")


def _sums(table: str) -> str:
    return ", ".join(f"sum({table}.{count})::bigint as {count}" for count in _COUNTS)


_ADD: Final = f"""
insert into usage_minutes as u
    (domain, minute, node, account, https_requests, https_bytes, http_requests, http_bytes)
select * from unnest({split_texts(1)}, {split_ints(2)}, {split_texts(3)}, {split_texts(4)},
  {split_bigints(5)},
    {split_bigints(6)}, {split_bigints(7)}, {split_bigints(8)})
on conflict (domain, minute, node) do update set
    https_requests = u.https_requests + excluded.https_requests,
    https_bytes = u.https_bytes + excluded.https_bytes,
    http_requests = u.http_requests + excluded.http_requests,
    http_bytes = u.http_bytes + excluded.http_bytes
"""
_PERIODS: Final = """
with periods as (select * from unnest($2::text[], $3::int[], $4::int[]) as p (account, first,
  past)),
wrong as (
    select m.domain, m.minute, m.node, m.account as was, coalesce(p.account, '') as becomes,
    m.https_requests
    from usage_minutes m left join periods p on m.minute >= p.first and m.minute < p.past
    where m.domain = $1 and m.account <> coalesce(p.account, '') and m.minute >= $5 * 60
)
"""
_SHIFT: Final = (
    _PERIODS
    + """
select minute / 60 as hour, was, becomes, sum(https_requests)::bigint as requests from wrong
  group by 1, 2, 3
"""
)
_REATTRIBUTE: Final = (
    _PERIODS
    + """
update usage_minutes m set account = w.becomes from wrong w
where m.domain = w.domain and m.minute = w.minute and m.node = w.node
"""
)
# Of an hour whose other minutes were forgotten: usage_hours is all there is of it, so it is moved
# there.
_FIND_OWNER: Final = f"""
with periods as (select * from unnest($2::text[], $3::int[], $4::int[]) as p (account, first,
  past)),
found as (
    delete from usage_minutes m using periods p where m.domain = $1 and m.account = ''
    and m.minute < $5 * 60
    and m.minute >= p.first and m.minute < p.past
    returning m.minute / 60 as hour, m.node, p.account, {", ".join(_COUNTS)}
),
moved as (select hour, node, account, {_sums("found")} from found group by 1, 2, 3),
taken as (
    update usage_hours u set {", ".join(f"{c} = u.{c} - f.{c}" for c in _COUNTS)}
    from (select hour, node, {_sums("moved")} from moved group by 1, 2) f
    where u.domain = $1 and u.hour = f.hour and u.node = f.node and u.account = ''
),
given as (
    insert into usage_hours as u (domain, hour, node, account, {", ".join(_COUNTS)})
    select $1, hour, node, account, {", ".join(_COUNTS)} from moved
    on conflict (domain, hour, node, account)
    do update set {", ".join(f"{c} = u.{c} + excluded.{c}" for c in _COUNTS)}
)
select hour, '' as was, account as becomes, sum(https_requests)::bigint as requests from moved
group by 1, 3
"""
_MARKS: Final = (
    "with past as (delete from touched_hours where hour = $1 returning hour) "
    "select count(*) from past"
)
_FILL: Final = """
insert into usage_hours (domain, hour, node, account, https_requests, https_bytes, http_requests,
  http_bytes)
select domain, $1, node, account, sum(https_requests), sum(https_bytes), sum(http_requests),
sum(http_bytes)
from usage_minutes where minute >= $1 * 60 and minute < ($1 + 1) * 60 group by domain, node, account
"""


class OwnerShift(NamedTuple):
    """Requests of one hour that turned out to be another account's."""

    hour: int
    was: str
    becomes: str
    requests: int


async def add_minutes(connection: Connection, rows: Sequence[MinuteRow]) -> None:
    """``rows`` sorted, each key once. Marks their hours as touched."""
    if not rows:
        return
    domain, minute, node, account, *counts = zip(*rows, strict=True)
    await connection.execute(
        _ADD,
        join_texts(domain),
        join_numbers(minute),
        join_texts(node),
        join_texts(account),
        *(join_numbers(column) for column in counts),
    )
    await touch_hours(connection, {minute // 60 for minute in set(minute)})


async def touch_hours(connection: Connection, hours: Iterable[int]) -> None:
    """The mark becomes visible with the rows: whoever sees one sees the other, so no lock is
    needed."""
    await connection.execute(
        "insert into touched_hours (hour) select unnest($1::int[])", sorted(set(hours))
    )


async def reattribute_domain(
    connection: Connection, domain: str, owned: Sequence[OwnershipPeriod]
) -> list[OwnerShift]:
    """Makes the rows of ``domain`` belong to ``owned``; what moved. The caller holds the owners
    exclusively.

    Where minutes are forgotten only what nobody owned still moves."""
    whole_from = (await load_limits(connection)).minutes_from
    arguments = (
        domain,
        [p.account for p in owned],
        [p.start for p in owned],
        [p.end for p in owned],
        whole_from,
    )
    rows = await connection.fetch(_SHIFT, *arguments)
    if rows:
        await connection.execute(_REATTRIBUTE, *arguments)
        await touch_hours(connection, {row["hour"] for row in rows})
    rows += await connection.fetch(_FIND_OWNER, *arguments)
    return [OwnerShift(**dict(row)) for row in rows]


async def find_hours_to_roll(connection: Reader, before_hour: int) -> list[int]:
    rows = await connection.fetch(
        "select distinct hour from touched_hours where hour < $1 order by hour", before_hour
    )
    return [row["hour"] for row in rows]


async def roll_hour(connection: Connection, hour: int) -> None:
    """Needs repeatable read: the marks deleted and the minutes added up must be of one snapshot.
    Never of an hour whose minutes are not whole: what was added up of them before is all that is
    left."""
    if (
        await connection.fetchval(_MARKS, hour)
        and hour >= (await load_limits(connection)).minutes_from
    ):
        await connection.execute(
            "delete from usage_hours where hour = $1", hour, timeout=MAINTENANCE_SECONDS
        )
        await connection.execute(_FILL, hour, timeout=MAINTENANCE_SECONDS)
