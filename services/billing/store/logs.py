"""How far each log is in; batches that wait, were refused, or are archived; cells that were
diverted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from services.billing.store import Reader
from shared import catalogue, subjects
from shared.contracts.queries import LogView, QueryLogs
from shared.messages import StreamPosition
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection

MAX_HELD = 500
"""Ranges of one log that may wait. More are dropped unconfirmed: the node sends them again."""


class LogKey(NamedTuple):
    node: str
    log: str


@dataclass
class LogState:
    """A row of node_logs, locked."""

    stored_to: int
    read_to: int
    final_length: int | None
    bad_lines: int = 0


class HeldBatch(NamedTuple):
    """A batch that waits: its exact body."""

    key: LogKey
    start: int
    end: int
    body: bytes


class ArchivedBatch(NamedTuple):
    """A row of batch_archive; ``cells`` as decode.pack_cells() makes them."""

    key: LogKey
    start: int
    end: int
    read_to: int
    bad_lines: int
    cell_count: int
    cells: bytes
    first_minute: int | None
    last_minute: int | None


class ArchivedRange(NamedTuple):
    """What was archived of a range that comes again."""

    end: int
    bad_lines: int
    cells: bytes


class BatchRefusal(NamedTuple):
    """``digest``: SHA-256 of the body, so that a batch that is sent again and again is one row."""

    node: str
    digest: bytes
    reason: str
    log: str | None = None
    start: int | None = None
    end: int | None = None
    stored_to: int | None = None


class DivertedCell(NamedTuple):
    """A cell that cannot be counted. ``domain``: printable; ``minute``: whatever number it was."""

    key: LogKey
    start: int
    end: int
    reason: str
    domain: str
    minute: int
    counts: tuple[int, int, int, int]


async def lock_logs(
    connection: Connection, keys: Iterable[LogKey], now: datetime
) -> dict[LogKey, LogState]:
    """Makes the rows that are missing, locks them all in order of their key."""
    ordered = sorted(keys)
    columns = [key.node for key in ordered], [key.log for key in ordered]
    await connection.execute(
        "insert into node_logs (node, log, last_seen, first_seen, complete_at) select n, l, "
        "$3, $3, $3"
        " from unnest($1::text[], $2::text[]) as t (n, l)"
        ' order by n collate "C", l collate "C" on conflict do nothing',
        *columns,
        now,
    )
    rows = await connection.fetch(
        "select node, log, stored_to, read_to, final_length, bad_lines from node_logs where "
        "(node, log) in"
        " (select * from unnest($1::text[], $2::text[])) order by node, log for update",
        *columns,
    )
    return {LogKey(node, log): LogState(*state) for node, log, *state in rows}


async def save_logs(connection: Connection, logs: dict[LogKey, LogState], now: datetime) -> None:
    await connection.execute(
        "update node_logs l set stored_to = t.stored_to, read_to = t.read_to, final_length = "
        "t.final_length,"
        " bad_lines = t.bad_lines, last_seen = greatest(last_seen, $6),"
        " complete_at = case when t.stored_to >= t.read_to then $6 else complete_at end"
        " from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], "
        "$7::bigint[])"
        " as t (node, log, stored_to, read_to, final_length, bad_lines) where l.node = t.node "
        "and l.log = t.log",
        [k.node for k in logs],
        [k.log for k in logs],
        [s.stored_to for s in logs.values()],
        [s.read_to for s in logs.values()],
        [s.final_length for s in logs.values()],
        now,
        [s.bad_lines for s in logs.values()],
    )


async def load_held(connection: Connection, keys: Iterable[LogKey]) -> list[HeldBatch]:
    ordered = list(keys)
    rows = await connection.fetch(
        "select node, log, start_at, end_at, body from held_batches where (node, log) in"
        " (select * from unnest($1::text[], $2::text[]))",
        [k.node for k in ordered],
        [k.log for k in ordered],
    )
    return [
        HeldBatch(LogKey(r["node"], r["log"]), r["start_at"], r["end_at"], r["body"]) for r in rows
    ]


async def find_waiting_logs(connection: Connection, node: str) -> list[LogKey]:
    rows = await connection.fetch("select distinct log from held_batches where node = $1", node)
    return [LogKey(node, row["log"]) for row in rows]


async def hold_batches(connection: Connection, batches: Sequence[HeldBatch], now: datetime) -> None:
    if not batches:
        return
    await connection.executemany(
        "insert into held_batches (node, log, start_at, end_at, body, held_at) select $1, $2, "
        "$3, $4, $5, $6"
        " where (select count(*) from held_batches where node = $1 and log = $2) < $7 on "
        "conflict do nothing",
        [(*h.key, h.start, h.end, h.body, now, MAX_HELD) for h in sorted(batches)],
    )


async def release_batches(connection: Connection, batches: Sequence[HeldBatch]) -> None:
    if not batches:
        return
    await connection.executemany(
        "delete from held_batches where node = $1 and log = $2 and start_at = $3 and end_at = $4",
        [(*h.key, h.start, h.end) for h in batches],
    )


async def archive_batches(
    connection: Connection, batches: Sequence[ArchivedBatch], now: datetime
) -> None:
    """Batches of one log in one transaction have different starts, so the key holds."""
    if not batches:
        return
    await connection.execute(
        "insert into batch_archive (node, log, start_at, end_at, read_to, bad_lines, "
        "cell_count, cells, first_minute,"
        " last_minute, received_at) select *, $11::timestamptz from unnest($1::text[], "
        "$2::text[], $3::bigint[],"
        " $4::bigint[], $5::bigint[], $6::bigint[], $7::int[], $8::bytea[], $9::int[], $10::int[])",
        [b.key.node for b in batches],
        [b.key.log for b in batches],
        [b.start for b in batches],
        [b.end for b in batches],
        [b.read_to for b in batches],
        [b.bad_lines for b in batches],
        [b.cell_count for b in batches],
        [b.cells for b in batches],
        [b.first_minute for b in batches],
        [b.last_minute for b in batches],
        now,
    )


async def load_archived(
    connection: Connection, places: Sequence[tuple[LogKey, int]]
) -> dict[tuple[LogKey, int], ArchivedRange]:
    """What the archive has of (log, start): one index look-up each."""
    rows = await connection.fetch(
        "select g.node, g.log, g.start_at, a.end_at, a.bad_lines, a.cells"
        " from unnest($1::text[], $2::text[], $3::bigint[]) as g (node, log, start_at) cross "
        "join lateral ("
        " select * from batch_archive where node = g.node and log = g.log and start_at = "
        "g.start_at limit 1) a",
        [key.node for key, _ in places],
        [key.log for key, _ in places],
        [start for _, start in places],
    )
    return {
        (LogKey(r["node"], r["log"]), r["start_at"]): ArchivedRange(
            r["end_at"], r["bad_lines"], r["cells"]
        )
        for r in rows
    }


async def touches_archived(connection: Connection, key: LogKey, start: int, end: int) -> bool:
    """Whether the archive has other ranges of the log that [start, end) touches: no more where they
    were dropped."""
    return bool(
        await connection.fetchval(
            "select exists (select from batch_archive where node = $1 and log = $2 and "
            "start_at < $4 and end_at > $3)",
            *key,
            start,
            end,
        )
    )


async def record_refusals(
    connection: Connection,
    refusals: Sequence[BatchRefusal],
    waited: Mapping[bytes, bytes],
    now: datetime,
) -> set[bytes]:
    """Records them; the digests of those that no dead letter was written for yet. ``waited``:
    bodies of those that nobody will deliver again."""
    unreported: set[bytes] = set()
    for refusal in sorted(refusals, key=lambda r: (r.node, r.digest)):
        mark_dead_lettered = await connection.fetchval(
            "insert into refused_batches as r (node, digest, reason, log, start_at, end_at, "
            "stored_to, first_at,"
            " last_at, body) values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) on conflict "
            "(node, digest) do update"
            " set times = r.times + 1, last_at = excluded.last_at returning buried",
            *refusal,
            now,
            waited.get(refusal.digest),
        )
        if not mark_dead_lettered:
            unreported.add(refusal.digest)
    return unreported


async def mark_dead_lettered(connection: Connection, node: str, digest: bytes) -> None:
    await connection.execute(
        "update refused_batches set buried = true, body = null where node = $1 and digest = $2",
        node,
        digest,
    )


async def load_forgotten_refusals(connection: Reader) -> list[tuple[Delivery, BatchRefusal]]:
    """Batches that were refused after they had waited and that no dead letter was written for."""
    rows = await connection.fetch(
        "select node, digest, reason, body, last_at from refused_batches where not buried and "
        "body is not null"
        " and last_at < now() - interval '5 seconds' limit 100"
    )
    return [
        (
            rebuild_delivery(r["node"], r["body"], r["last_at"]),
            BatchRefusal(r["node"], r["digest"], r["reason"]),
        )
        for r in rows
    ]


def rebuild_delivery(node: str, body: bytes, at: datetime) -> Delivery:
    """As it was delivered once, before it waited."""
    return Delivery.of(
        catalogue.USAGE_BATCH.for_node(node), body, {}, StreamPosition(subjects.STREAM_USAGE, 0, at)
    )


async def divert_cells(
    connection: Connection, cells: Sequence[DivertedCell], now: datetime
) -> None:
    if not cells:
        return
    await connection.executemany(
        "insert into diverted_cells (node, log, start_at, end_at, reason, domain, minute, "
        "https_requests, https_bytes,"
        " http_requests, http_bytes, diverted_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, "
        "$10, $11, $12)",
        [(*c.key, c.start, c.end, c.reason, c.domain, c.minute, *c.counts, now) for c in cells],
    )


async def page_logs(connection: Reader, question: QueryLogs) -> list[LogView]:
    """In order of (node, log); ``after`` is ``node/log`` of the last one seen."""
    node, _, log = question.after.partition("/")
    rows = await connection.fetch(
        "select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.last_seen, l.bad_lines,"
        " (select count(*) from held_batches h where h.node = l.node and h.log = l.log) as "
        "held from node_logs l"
        " where (l.node, l.log) > ($1, $2) and ($3::text is null or l.node = $3) order by "
        "l.node, l.log limit $4",
        node,
        log,
        question.node,
        question.limit,
    )
    return [LogView(**dict(row)) for row in rows]
