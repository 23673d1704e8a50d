"""Single events: each (source, id) once, in the partition of its day.

The same identity with another content is a conflict and is kept apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from typing import Final

from asyncpg import UniqueViolationError

from services.billing.domain.units import UnixDay
from services.billing.domain.usage_aggregator import RequestRow
from services.billing.store.columns import BREAK_SQL, join_texts
from shared.storage.pool import Connection

DAYS_BACK: Final = 36
"""The late window, and the day that it begins in."""
Identity = tuple[str, str]
"""Source and id."""
# Fields of RequestRow have the names of the columns.
_COLUMNS: Final = (*RequestRow._fields, "received_at")
_SOURCE: Final = itemgetter(0)
_DAY: Final = itemgetter(2)
# Where a source's ids grow with time no day has an id between the lowest and the highest of these
# events: then this costs one look-up for each day and no more. limit and offset keep the planner
# from joining these in another order.
_KNOWN: Final = f"""
select r.source, r.id, r.day, r.at, r.domain, r.node, r.bytes, r.status
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as s (source, low, high, ids)
cross join generate_series($5::int, $6::int) as d (day)
cross join lateral (
    select day from requests where day = d.day and source = s.source
        and id between s.low and s.high limit 1
) near
cross join lateral (
    select * from requests where day = near.day and source = s.source
        and id = any(string_to_array(s.ids, {BREAK_SQL}))
    offset 0
) r
"""
_KEEP_CONFLICT: Final = """
insert into request_conflicts (source, id, digest, body, at) values ($1, $2, $3, $4, $5)
on conflict do nothing
"""


class StoredMeanwhile(Exception):
    """Another transaction has stored one of the identities since they were looked up."""


async def load_known(
    connection: Connection, rows: Sequence[RequestRow], today: UnixDay
) -> list[RequestRow]:
    """Return what is stored under the identities of ``rows``, on any day that counts.

    ``rows`` are sorted."""
    sources = []
    lowest_ids = []
    highest_ids = []
    all_ids = []
    for source, of_source in groupby(rows, _SOURCE):
        ids = [row.id for row in of_source]
        sources.append(source)
        lowest_ids.append(ids[0])
        highest_ids.append(ids[-1])
        all_ids.append(join_texts(ids))
    known = await connection.fetch(
        _KNOWN, sources, lowest_ids, highest_ids, all_ids, today - DAYS_BACK, today + 1
    )
    return [RequestRow(**dict(row)) for row in known]


async def add_requests(connection: Connection, rows: Sequence[RequestRow], now: datetime) -> None:
    """Store events, each identity once, sorted.

    COPY writes many rows at once and so costs half of an insert, but it has no ON CONFLICT. On
    StoredMeanwhile the whole transaction is to be done again."""
    if not rows:
        return
    end = f"\t{now.isoformat()}\n"
    # By day, for COPY writes one partition after the other: two transactions that share events on
    # two days would wait for each other.
    lines = [
        f"{source}\t{id}\t{day}\t{at}\t{domain}\t{node}\t{size}\t{status}{end}"
        for source, id, day, at, domain, node, size, status in sorted(rows, key=_DAY)
    ]
    try:
        await connection.copy_to_table(
            "requests", source=BytesIO("".join(lines).encode()), columns=_COLUMNS
        )
    except UniqueViolationError:
        raise StoredMeanwhile from None


async def keep_conflicts(
    connection: Connection, conflicts: Iterable[tuple[Identity, bytes, bytes]], at: datetime
) -> None:
    """Keep events with a used identity and another content: (identity, digest, body) of each."""
    rows = []
    for identity, digest, body in conflicts:
        rows.append((*identity, digest, body, at))
    await connection.executemany(_KEEP_CONFLICT, rows)
