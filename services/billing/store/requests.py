"""Single events: each (source, id) once, in the partition of its day; the same with another content is a conflict."""

# ruff: noqa: S608 - the columns are this module's own
from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.billing.store.columns import BREAK_SQL, numbers, split, split_bigints, split_ints, split_texts, texts
from shared.storage.pool import Connection

DAYS_BACK: Final = 36
"""Of the late window, and the day that it begins in."""
# What was added is only told where something was not: most lots hold no duplicate.
_ADD: Final = f"""
with added as (
insert into requests (source, id, day, at, domain, node, bytes, status, received_at)
select source, id, day, at, domain, node, bytes, status::smallint, $9::timestamptz from unnest(
    {split_texts(1)}, {split_texts(2)}, {split_ints(3)}, {split_bigints(4)}, {split_texts(5)}, {split_texts(6)},
    {split_bigints(7)}, {split_ints(8)}
) as t (source, id, day, at, domain, node, bytes, status) on conflict do nothing returning source, id
)
select count(*), case when count(*) < $10 then string_agg(source, {BREAK_SQL}) end,
    case when count(*) < $10 then string_agg(id, {BREAK_SQL}) end from added
"""
_COLUMNS: Final = "r.source, r.id, r.day, r.at, r.domain, r.node, r.bytes, r.status"
# limit 1: one index look-up an event, whatever the planner thinks of the partitions.
_BEFORE: Final = f"""
select {_COLUMNS} from unnest($1::text[], $2::text[], $3::int[]) as g (source, id, day)
cross join lateral (select * from requests where source = g.source and id = g.id and day = g.day limit 1) r
"""
_OTHER_DAYS: Final = """
select distinct d.day from unnest($1::text[], $2::text[], $3::text[], $4::int[]) as s (source, low, high, own)
cross join generate_series($5::int, $6::int) as d (day)
cross join lateral (
    select from requests where day = d.day and source = s.source and id between s.low and s.high limit 1
) r where d.day <> s.own
"""
_ELSEWHERE: Final = f"""
select {_COLUMNS} from unnest($1::text[], $2::text[], $3::int[]) as g (source, id, day)
cross join lateral (
    select * from requests where source = g.source and id = g.id and day = any($4::int[]) and day <> g.day limit 1
) r
"""


class RequestRow(NamedTuple):
    """Its first two fields are its identity; ``at``: Unix time in microseconds, ``day``: in days."""

    source: str
    id: str
    day: int
    at: int
    domain: str
    node: str
    bytes: int
    status: int

    @property
    def minute(self) -> int:
        return self.at // 60_000_000


Identity = tuple[str, str]


async def elsewhere(connection: Connection, rows: Sequence[RequestRow], today: int) -> list[RequestRow]:
    """What is stored under the identities of ``rows``, sorted, on other days than theirs.

    An event that is sent again has the same time, so this finds conflicts only. Where a source's ids grow with time no
    other day has one between the lowest and the highest of a lot: then it costs one look-up a day and no more."""
    highest = {(row.source, row.day): row.id for row in rows}
    lowest = {(row.source, row.day): row.id for row in reversed(rows)}
    found = await connection.fetch(
        _OTHER_DAYS, [source for source, _ in highest], [lowest[span] for span in highest], list(highest.values()),
        [day for _, day in highest], today - DAYS_BACK, today + 1,
    )
    if not found:
        return []
    stored = await connection.fetch(
        _ELSEWHERE, [row.source for row in rows], [row.id for row in rows], [row.day for row in rows],
        [row["day"] for row in found],
    )
    return [RequestRow(*row) for row in stored]


async def add(connection: Connection, rows: Sequence[RequestRow], now: datetime) -> list[RequestRow]:
    """``rows`` sorted, each identity once. What was stored before under the identities that are not new."""
    if not rows:
        return []
    source, id, day, at, domain, node, size, status = zip(*rows, strict=True)
    columns = texts(source), texts(id), numbers(day), numbers(at), texts(domain), texts(node), numbers(size), \
        numbers(status)
    ((count, sources, ids),) = await connection.fetch(_ADD, *columns, now, len(rows))
    if count == len(rows):
        return []
    new = set(zip(split(sources), split(ids), strict=True))
    old = [row for row in rows if row[:2] not in new]
    stored = await connection.fetch(
        _BEFORE, [row.source for row in old], [row.id for row in old], [row.day for row in old]
    )
    return [RequestRow(*row) for row in stored]


async def keep_conflicts(
    connection: Connection, found: Iterable[tuple[Identity, bytes, bytes]], at: datetime
) -> None:
    """(identity, digest, body) of each."""
    await connection.executemany(
        "insert into request_conflicts (source, id, digest, body, at) values ($1, $2, $3, $4, $5)"
        " on conflict do nothing", [(*identity, digest, body, at) for identity, digest, body in found],
    )
