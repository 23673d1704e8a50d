"""The position of each log, and its batches: held, refused, archived. Cells that were diverted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.billing.domain.units import UnixMinute
from services.billing.store import Reader
from services.billing.store.columns import RowColumns
from shared import catalogue, subjects
from shared.contracts.queries import LogView, QueryLogs
from shared.messages import StreamPosition
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection

MAX_HELD: Final = 500
"""Ranges of one log that may wait. More are dropped unconfirmed: the node sends them again."""
_KEYS: Final = RowColumns(node="text", log="text")
_STATES: Final = RowColumns(
    node="text",
    log="text",
    stored_to="bigint",
    read_to="bigint",
    final_length="bigint",
    bad_lines="bigint",
)
_ARCHIVED: Final = RowColumns(
    node="text",
    log="text",
    start_at="bigint",
    end_at="bigint",
    read_to="bigint",
    bad_lines="bigint",
    cell_count="int",
    cells="bytea",
    first_minute="int",
    last_minute="int",
)
_STARTS: Final = RowColumns(node="text", log="text", start_at="bigint")
_CREATE_LOGS: Final = f"""
insert into node_logs ({_KEYS.names}, last_seen, first_seen, complete_at)
select node, log, $1, $1, $1 from {_KEYS.unnest(first=2)}
order by node collate "C", log collate "C" on conflict do nothing
"""
_LOCK_LOGS: Final = f"""
select {_STATES.names} from node_logs where ({_KEYS.names}) in (select * from {_KEYS.unnest()})
order by node, log for update
"""
_SAVE_LOGS: Final = f"""
update node_logs l set {_STATES.assignments("node", "log")},
    last_seen = greatest(last_seen, $1),
    complete_at = case when t.stored_to >= t.read_to then $1 else complete_at end
from {_STATES.unnest(first=2)} where l.node = t.node and l.log = t.log
"""
_LOAD_HELD: Final = f"""
select node, log, start_at, end_at, body from held_batches
where ({_KEYS.names}) in (select * from {_KEYS.unnest()})
"""
_HOLD: Final = """
insert into held_batches (node, log, start_at, end_at, body, held_at)
select $1, $2, $3, $4, $5, $6
where (select count(*) from held_batches where node = $1 and log = $2) < $7
on conflict do nothing
"""
_RELEASE: Final = """
delete from held_batches where node = $1 and log = $2 and start_at = $3 and end_at = $4
"""
_ARCHIVE: Final = f"""
insert into batch_archive ({_ARCHIVED.names}, received_at)
select *, $1::timestamptz from {_ARCHIVED.unnest(first=2)}
"""
_LOAD_ARCHIVED: Final = f"""
select g.node, g.log, g.start_at, a.end_at, a.bad_lines, a.cells from {_STARTS.unnest("g")}
cross join lateral (
    select * from batch_archive where node = g.node and log = g.log and start_at = g.start_at
    limit 1
) a
"""
_TOUCHES_ARCHIVED: Final = """
select exists (
    select from batch_archive where node = $1 and log = $2 and start_at < $4 and end_at > $3
)
"""
_REFUSE: Final = """
insert into refused_batches as r
    (node, digest, reason, log, start_at, end_at, stored_to, first_at, last_at, body)
values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
on conflict (node, digest) do update set times = r.times + 1, last_at = excluded.last_at
returning buried
"""
_DEAD_LETTERED: Final = """
update refused_batches set buried = true, body = null where node = $1 and digest = $2
"""
_FORGOTTEN: Final = """
select node, digest, reason, body, last_at from refused_batches
where not buried and body is not null and last_at < now() - interval '5 seconds' limit 100
"""
_DIVERT: Final = """
insert into diverted_cells
    (node, log, start_at, end_at, reason, domain, minute, https_requests, https_bytes,
    http_requests, http_bytes, diverted_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_PAGE: Final = """
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.last_seen, l.bad_lines,
    (select count(*) from held_batches h where h.node = l.node and h.log = l.log) as held
from node_logs l
where (l.node, l.log) > ($1, $2) and ($3::text is null or l.node = $3)
order by l.node, l.log limit $4
"""


class LogKey(NamedTuple):
    """One log of one node. A node begins a new log with a new id at each rotation."""

    node: str
    log: str


@dataclass
class LogState:
    """A locked row of node_logs. Every byte before ``stored_to`` is counted exactly once."""

    stored_to: int
    read_to: int
    final_length: int | None
    bad_lines: int = 0


class HeldBatch(NamedTuple):
    """A batch that waits for an earlier range, with its exact body."""

    key: LogKey
    start: int
    end: int
    body: bytes


class ArchivedBatch(NamedTuple):
    """A row of batch_archive. ``cells``: packed (domain/wire_format.py)."""

    node: str
    log: str
    start_at: int
    end_at: int
    read_to: int
    bad_lines: int
    cell_count: int
    cells: bytes
    first_minute: UnixMinute | None
    last_minute: UnixMinute | None


class ArchivedRange(NamedTuple):
    """The archived range at the start of a range that comes again."""

    end: int
    bad_lines: int
    cells: bytes


class BatchRefusal(NamedTuple):
    """A batch that is never counted.

    ``digest``: SHA-256 of the body, so that a batch that is sent again and again is one row."""

    node: str
    digest: bytes
    reason: str
    log: str | None = None
    start: int | None = None
    end: int | None = None
    stored_to: int | None = None


class DivertedCell(NamedTuple):
    """A cell that cannot be counted. ``domain``: printable; ``minute``: as it came, any number."""

    key: LogKey
    start: int
    end: int
    reason: str
    domain: str
    minute: UnixMinute
    counts: tuple[int, int, int, int]


async def lock_logs(
    connection: Connection, keys: Iterable[LogKey], now: datetime
) -> dict[LogKey, LogState]:
    """Lock the rows of logs in order of their key; create those that are missing."""
    parameters = _KEYS.from_objects(sorted(keys))
    await connection.execute(_CREATE_LOGS, now, *parameters)
    states = {}
    for row in await connection.fetch(_LOCK_LOGS, *parameters):
        states[LogKey(row["node"], row["log"])] = LogState(
            row["stored_to"], row["read_to"], row["final_length"], row["bad_lines"]
        )
    return states


async def save_logs(
    connection: Connection, states: Mapping[LogKey, LogState], now: datetime
) -> None:
    """Write locked rows back. A log that is complete gets ``now`` as the time of it."""
    rows = []
    for key, state in states.items():
        rows.append((*key, state.stored_to, state.read_to, state.final_length, state.bad_lines))
    await connection.execute(_SAVE_LOGS, now, *_STATES.from_tuples(rows))


async def load_held(connection: Connection, keys: Iterable[LogKey]) -> list[HeldBatch]:
    """Return the batches of logs that wait."""
    held = []
    for row in await connection.fetch(_LOAD_HELD, *_KEYS.from_objects(list(keys))):
        key = LogKey(row["node"], row["log"])
        held.append(HeldBatch(key, row["start_at"], row["end_at"], row["body"]))
    return held


async def find_waiting_logs(connection: Connection, node: str) -> list[LogKey]:
    """Return the logs of a node with batches that wait."""
    rows = await connection.fetch("select distinct log from held_batches where node = $1", node)
    return [LogKey(node, row["log"]) for row in rows]


async def hold_batches(connection: Connection, batches: Sequence[HeldBatch], now: datetime) -> None:
    """Keep batches that wait, at most MAX_HELD of one log."""
    rows = []
    for held in sorted(batches):
        rows.append((*held.key, held.start, held.end, held.body, now, MAX_HELD))
    if rows:
        await connection.executemany(_HOLD, rows)


async def release_batches(connection: Connection, batches: Sequence[HeldBatch]) -> None:
    """Delete batches that wait no more."""
    if batches:
        rows = [(*held.key, held.start, held.end) for held in batches]
        await connection.executemany(_RELEASE, rows)


async def archive_batches(
    connection: Connection, batches: Sequence[ArchivedBatch], now: datetime
) -> None:
    """Archive accepted batches. Those of one log in one transaction have different starts, so the
    primary key holds."""
    if batches:
        await connection.execute(_ARCHIVE, now, *_ARCHIVED.from_objects(batches))


async def load_archived(
    connection: Connection, starts: Sequence[tuple[LogKey, int]]
) -> dict[tuple[LogKey, int], ArchivedRange]:
    """Return what the archive has at (log, start): one index look-up each."""
    rows = await connection.fetch(
        _LOAD_ARCHIVED, *_STARTS.from_tuples([(*key, start) for key, start in starts])
    )
    archived = {}
    for row in rows:
        key = LogKey(row["node"], row["log"])
        archived[key, row["start_at"]] = ArchivedRange(
            row["end_at"], row["bad_lines"], row["cells"]
        )
    return archived


async def touches_archived(connection: Connection, key: LogKey, start: int, end: int) -> bool:
    """Return whether the archive has any range of the log that [start, end) touches.

    It has none where the month of that range was dropped."""
    return bool(await connection.fetchval(_TOUCHES_ARCHIVED, *key, start, end))


async def record_refusals(
    connection: Connection,
    refusals: Sequence[BatchRefusal],
    bodies: Mapping[bytes, bytes],
    now: datetime,
) -> set[bytes]:
    """Record refusals; return the digests of those that have no dead letter yet.

    ``bodies``, by digest: of batches that waited, which no delivery brings again."""
    without_letter: set[bytes] = set()
    for refusal in sorted(refusals, key=lambda one: (one.node, one.digest)):
        has_letter = await connection.fetchval(_REFUSE, *refusal, now, bodies.get(refusal.digest))
        if not has_letter:
            without_letter.add(refusal.digest)
    return without_letter


async def mark_dead_lettered(connection: Reader, node: str, digest: bytes) -> None:
    """Record that the refusal has its dead letter."""
    await connection.execute(_DEAD_LETTERED, node, digest)


async def load_forgotten_refusals(connection: Reader) -> list[tuple[Delivery, BatchRefusal]]:
    """Return batches that were refused after they had waited, and that have no dead letter."""
    forgotten = []
    for row in await connection.fetch(_FORGOTTEN):
        delivery = rebuild_delivery(row["node"], row["body"], row["last_at"])
        forgotten.append((delivery, BatchRefusal(row["node"], row["digest"], row["reason"])))
    return forgotten


def rebuild_delivery(node: str, body: bytes, at: datetime) -> Delivery:
    """Return a batch as it was delivered before it waited."""
    position = StreamPosition(subjects.STREAM_USAGE, 0, at)
    return Delivery.of(catalogue.USAGE_BATCH.for_node(node), body, {}, position)


async def divert_cells(
    connection: Connection, cells: Sequence[DivertedCell], now: datetime
) -> None:
    """Keep cells that cannot be counted, each with its reason."""
    rows = []
    for cell in cells:
        place = (*cell.key, cell.start, cell.end)
        rows.append((*place, cell.reason, cell.domain, cell.minute, *cell.counts, now))
    if rows:
        await connection.executemany(_DIVERT, rows)


async def page_logs(connection: Reader, question: QueryLogs) -> list[LogView]:
    """Return logs in order of (node, log). ``after``: ``node/log`` of the last one seen."""
    node, _, log = question.after.partition("/")
    rows = await connection.fetch(_PAGE, node, log, question.node, question.limit)
    return [LogView(**dict(row)) for row in rows]
