"""Single events: each (source, id) once, in the partition of its day; the same with another content
is a conflict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from asyncpg import UniqueViolationError

from services.billing.store.columns import BREAK_SQL, join_texts
from shared.storage.pool import Connection

DAYS_BACK: Final = 36
"""Of the late window, and the day that it begins in."""
_SOURCE: Final = itemgetter(0)
_DAY: Final = itemgetter(2)
# Where a source's ids grow with time no day has one between the lowest and the highest of a lot:
# then this costs one look-up a day and no more. limit and offset keep the planner from joining
# these in another order.
_KNOWN: Final = f"""
select r.source, r.id, r.day, r.at, r.domain, r.node, r.bytes, r.status
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as s (source, low, high, ids)
cross join generate_series($5::int, $6::int) as d (day)
cross join lateral (
    select day from requests where day = d.day and source = s.source and id between s.low
      and s.high limit 1
) near
cross join lateral (
    select * from requests where day = near.day and source = s.source
    and id = any(string_to_array(s.ids, {BREAK_SQL}))
    offset 0
) r
"""


class RequestRow(NamedTuple):
    """Its first two fields are its identity; ``at``: Unix time in microseconds, ``day``: in
    days."""

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
_COLUMNS: Final = (*RequestRow._fields, "received_at")


class StoredMeanwhile(Exception):
    """Another transaction has stored one of the identities since they were looked up."""


async def load_known(
    connection: Connection, rows: Sequence[RequestRow], today: int
) -> list[RequestRow]:
    """What is stored under the identities of ``rows``, sorted, on any day that counts."""
    ids = {source: [row.id for row in of_source] for source, of_source in groupby(rows, _SOURCE)}
    stored = await connection.fetch(
        _KNOWN,
        list(ids),
        [of_source[0] for of_source in ids.values()],
        [of_source[-1] for of_source in ids.values()],
        [join_texts(of_source) for of_source in ids.values()],
        today - DAYS_BACK,
        today + 1,
    )
    return [RequestRow(*row) for row in stored]


async def add_requests(connection: Connection, rows: Sequence[RequestRow], now: datetime) -> None:
    """Each identity once, sorted. By COPY, which writes many rows at once and so costs half of an
    insert, but has no ON CONFLICT. Overtaken: the transaction is to be done again."""
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
    connection: Connection, found: Iterable[tuple[Identity, bytes, bytes]], at: datetime
) -> None:
    """(identity, digest, body) of each."""
    await connection.executemany(
        "insert into request_conflicts (source, id, digest, body, at) values ($1, $2, $3, $4, $5)"
        " on conflict do nothing",
        [(*identity, digest, body, at) for identity, digest, body in found],
    )
