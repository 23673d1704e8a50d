"""Usage per domain, node and minute: written as it comes, rolled up by the hour, read by period."""

# ruff: noqa: S608 - what is put into statements here is this module's own; everything else is a parameter
from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from services.billing.cells import MinuteRow
from services.billing.owners import Period
from services.billing.store import Reader
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import UsageRow
from shared.errors import Refused
from shared.storage.pool import Connection

_ADD: Final = """
insert into usage_minutes as u
    (domain, minute, node, account, https_requests, https_bytes, http_requests, http_bytes)
select * from unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[])
on conflict (domain, minute, node) do update set
    https_requests = u.https_requests + excluded.https_requests,
    https_bytes = u.https_bytes + excluded.https_bytes,
    http_requests = u.http_requests + excluded.http_requests,
    http_bytes = u.http_bytes + excluded.http_bytes
"""
_PERIODS: Final = """
with periods as (select * from unnest($2::text[], $3::int[], $4::int[]) as p (account, first, past)),
wrong as (
    select m.domain, m.minute, m.node, m.account as was, coalesce(p.account, '') as becomes, m.https_requests
    from usage_minutes m left join periods p on m.minute >= p.first and m.minute < p.past
    where m.domain = $1 and m.account <> coalesce(p.account, '')
)
"""
_SHIFT: Final = _PERIODS + """
select minute / 60 as hour, was, becomes, sum(https_requests)::bigint as requests from wrong group by 1, 2, 3
"""
_REATTRIBUTE: Final = _PERIODS + """
update usage_minutes m set account = w.becomes from wrong w
where m.domain = w.domain and m.minute = w.minute and m.node = w.node
"""
_ROLL: Final = """
with past as (delete from touched_hours where hour = $1 returning hour),
gone as (delete from usage_hours where hour = $1)
select count(*) from past
"""
_FILL: Final = """
insert into usage_hours (domain, hour, node, account, https_requests, https_bytes, http_requests, http_bytes)
select domain, $1, node, account, sum(https_requests), sum(https_bytes), sum(http_requests), sum(http_bytes)
from usage_minutes where minute >= $1 * 60 and minute < ($1 + 1) * 60 group by domain, node, account
"""
_SUMS: Final = (
    "sum(https_requests)::bigint as https_requests, sum(https_bytes)::bigint as https_bytes,"
    " sum(http_requests)::bigint as http_requests, sum(http_bytes)::bigint as http_bytes"
)
_WHO: Final = (
    "($3::text is null or (account = $3 and domain in (select domain from domain_facts where account = $3)))"
    " and ($4::text is null or domain = $4) and ($5::text is null or node = $5)"
)
_KEYS: Final = {"account": "account", "domain": "domain", "node": "node"}
_LAST_MINUTE: Final = 2**31 - 60
_WIDTHS: Final = {"5m": 5, "hour": 60, "day": 1440}


class Shift(NamedTuple):
    """Requests of one hour that turned out to be another account's."""

    hour: int
    was: str
    becomes: str
    requests: int


async def add(connection: Connection, rows: Sequence[MinuteRow]) -> None:
    """``rows`` sorted, each key once. Marks their hours as touched."""
    if not rows:
        return
    await connection.execute(_ADD, *(list(column) for column in zip(*rows, strict=True)))
    await touch(connection, {row[1] // 60 for row in rows})


async def touch(connection: Connection, hours: Iterable[int]) -> None:
    """The mark becomes visible with the rows: whoever sees one sees the other, so no lock is needed."""
    await connection.execute(
        "insert into touched_hours (hour) select unnest($1::int[])", sorted(set(hours))
    )


async def reattribute(connection: Connection, domain: str, owned: Sequence[Period]) -> list[Shift]:
    """Makes the rows of ``domain`` belong to ``owned``; what moved. The caller holds the owners exclusively."""
    arguments = domain, [p.account for p in owned], [p.start for p in owned], [p.end for p in owned]
    rows = await connection.fetch(_SHIFT, *arguments)
    if not rows:
        return []
    await connection.execute(_REATTRIBUTE, *arguments)
    await touch(connection, {row["hour"] for row in rows})
    return [Shift(**dict(row)) for row in rows]


async def hours_to_roll(connection: Reader, before_hour: int) -> list[int]:
    rows = await connection.fetch("select distinct hour from touched_hours where hour < $1 order by hour", before_hour)
    return [row["hour"] for row in rows]


async def roll_hour(connection: Connection, hour: int) -> None:
    """Needs repeatable read: the marks deleted and the minutes added up must be of one snapshot."""
    if await connection.fetchval(_ROLL, hour):
        await connection.execute(_FILL, hour)


async def query(connection: Reader, question: QueryUsage) -> list[UsageRow]:
    """One page in order of (start, key). Whole hours that no mark names come from usage_hours, the rest by minute."""
    first, past = _minute_up(question.start), _minute_up(question.end)
    after_start, after_key = _after(question)
    if after_start is not None:
        first = max(first, after_start)
    first_hour, past_hour = -(-first // 60), past // 60
    if question.granularity == "5m" or first_hour >= past_hour:
        hours, minutes, arguments = "", f"minute >= $1 and minute < $2 and {_WHO}", []
    else:
        hours = (
            f" union all select hour * 60 as minute, account, domain, node, https_requests, https_bytes, http_requests,"
            f" http_bytes from usage_hours where hour >= $6 and hour < $7 and {_WHO}"
            " and hour not in (select hour from touched_hours)"
        )
        minutes = (
            f"minute >= $1 and minute < $2 and {_WHO} and (minute < $6 * 60 or minute >= $7 * 60"
            " or minute / 60 in (select hour from touched_hours))"
        )
        arguments = [first_hour, past_hour]
    return await _page(connection, question, minutes, hours, (first, past), arguments, (after_start, after_key))


async def _page(
    connection: Reader, question: QueryUsage, minutes: str, hours: str, period: tuple[int, int],
    arguments: Sequence[int], after: tuple[int | None, str],
) -> list[UsageRow]:
    width, key = _WIDTHS[question.granularity], _KEYS[question.by]
    count = 5 + len(arguments)
    rows = await connection.fetch(
        f"with parts as (select minute, account, domain, node, https_requests, https_bytes, http_requests, http_bytes"
        f" from usage_minutes where {minutes}{hours}) select minute - minute % {width} as start, {key} as key, {_SUMS}"
        f" from parts group by 1, 2 having ${count + 1}::int is null or (minute - minute % {width}, {key}) >"
        f" (${count + 1}, ${count + 2}) order by 1, 2 limit ${count + 3}",
        *period, question.account, question.domain, question.node, *arguments, *after, question.limit,
    )
    return [UsageRow(**{**dict(row), "start": _time(row["start"])}) for row in rows]


def page_mark(row: UsageRow) -> str:
    """What the next page begins after."""
    return f"{int(row.start.timestamp()) // 60}|{row.key}"


def _after(question: QueryUsage) -> tuple[int | None, str]:
    if question.after is None:
        return None, ""
    start, _, key = question.after.partition("|")
    if not start.isdecimal() or int(start) > _LAST_MINUTE:
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return int(start), key


def _minute_up(at: datetime) -> int:
    """The first whole minute from ``at`` on, within what the column holds."""
    return min(max(-int(-at.timestamp() // 60), 0), _LAST_MINUTE)


def _time(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(minutes=minute)
