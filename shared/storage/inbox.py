"""What a stream delivered, stored before it is acked, and run in the stream's order, each once, by
any replica.

A message's targets are rows (sequence, key). A target is ready when every lower sequence of its
stream is settled: stored, poison, a duplicate, or below the consumer's ack floor; an older
incarnation of the stream counts as settled. Whoever holds the lock of a key runs what is ready
under it, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Generic, Protocol, TypeVar

import structlog

from shared.storage.pool import Connection, Pool
from shared.storage.pool import listen as pool_listen

log = structlog.get_logger()
CHANNEL = "inbox"
KEEP_DAYS = 35
_LOOK_AHEAD = 10_000
_HEADER = 256


class StreamMessage(Protocol):
    """A message with its position in its stream: ``shared.messaging.delivery.Delivery``."""

    body: bytes

    @property
    def subject(self) -> str: ...

    @property
    def stream(self) -> str: ...

    @property
    def sequence(self) -> int: ...

    @property
    def stream_time(self) -> datetime: ...

    @property
    def id(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def traceparent(self) -> str | None: ...


MessageT = TypeVar("MessageT", bound=StreamMessage)


@dataclass(frozen=True)
class Arrival(Generic[MessageT]):
    """A delivery with the keys that it concerns; none: settled without effect (poison that was
    buried)."""

    delivery: MessageT
    incarnation: datetime
    keys: tuple[str, ...] = ()

    @property
    def content_hash(self) -> bytes:
        return sha256(self.delivery.subject.encode() + b"\0" + self.delivery.body).digest()


@dataclass(frozen=True)
class Target:
    """One message under one key, waiting to run. ``body`` is gone (None) once every target of the
    message ran."""

    key: str
    stream: str
    incarnation: datetime
    sequence: int
    message_id: str
    subject: str
    source: str
    traceparent: str | None
    body: bytes
    stream_time: datetime


@dataclass(frozen=True)
class Stored(Generic[MessageT]):
    """``conflicts``: the same id with another content; not settled: bury them, then store them
    without keys."""

    fresh: int
    duplicates: int
    conflicts: list[Arrival[MessageT]]


class Inbox:
    """The inbox of one stream."""

    def __init__(self, pool: Pool, stream: str) -> None:
        self._pool, self.stream = pool, stream

    async def store(self, arrivals: Sequence[Arrival[MessageT]]) -> Stored[MessageT]:
        """All of them in one transaction; ack each (but conflicts) after it returns.

        The row of the stream is locked: two replicas agree on what is settled."""
        stored: Stored[MessageT] = Stored(0, 0, [])
        async with self._pool.acquire() as connection, connection.transaction():
            for incarnation in sorted({arrival.incarnation for arrival in arrivals}):
                some = [arrival for arrival in arrivals if arrival.incarnation == incarnation]
                part = await self._store(connection, incarnation, some)
                stored = Stored(
                    stored.fresh + part.fresh,
                    stored.duplicates + part.duplicates,
                    stored.conflicts + part.conflicts,
                )
            if stored.fresh or stored.duplicates:
                await connection.execute(f"notify {CHANNEL}")
        return stored

    async def settle_below(self, incarnation: datetime, floor: int) -> bool:
        """``floor``: the consumer's ack floor: what is not stored up to it will never come. Whether
        it moved."""
        async with self._pool.acquire() as connection, connection.transaction():
            settled_to = await self._lock(connection, incarnation)
            if floor <= settled_to:
                return False
            await self._advance(connection, incarnation, floor)
            await connection.execute(f"notify {CHANNEL}")
            return True

    async def waits_for_gap(self) -> bool:
        """Whether something is stored that a lower sequence keeps from running."""
        return bool(
            await self._pool.fetchval(
                "select exists (select from inbox_targets where stream = $1 and state = 'stored')",
                self.stream,
            )
        )

    async def known_incarnations(self) -> list[datetime]:
        rows = await self._pool.fetch(
            "select incarnation from inbox_streams where stream = $1 order by incarnation",
            self.stream,
        )
        return [row["incarnation"] for row in rows]

    async def sweep(self) -> None:
        """Ids are remembered for 35 days: the stream's own window of duplicates is two minutes."""
        await self._pool.execute(
            "delete from inbox i where stored_at < now() - make_interval(days => $1) and not "
            "exists (select from"
            " inbox_targets t where (t.stream, t.incarnation, t.sequence) = (i.stream, "
            "i.incarnation, i.sequence))",
            KEEP_DAYS,
        )

    async def _store(
        self, connection: Connection, incarnation: datetime, arrivals: Sequence[Arrival[MessageT]]
    ) -> Stored[MessageT]:
        settled_to = await self._lock(connection, incarnation)
        fresh = await self._insert(connection, [a for a in arrivals if a.keys])
        rest = [a for a in arrivals if a.delivery.sequence not in fresh]
        duplicates, conflicts = await self._judge(connection, incarnation, rest)
        await self._insert_settled(connection, duplicates)
        await self._insert_targets(
            connection, [a for a in arrivals if a.delivery.sequence in fresh]
        )
        await self._advance(connection, incarnation, settled_to)
        return Stored(len(fresh), len(duplicates), conflicts)

    async def _lock(self, connection: Connection, incarnation: datetime) -> int:
        """Where it is settled to. A new incarnation settles the older ones: what is missing of them
        is lost."""
        made = await connection.fetchval(
            "insert into inbox_streams (stream, incarnation) values ($1, $2) on conflict do "
            "nothing returning true",
            self.stream,
            incarnation,
        )
        if made:
            await connection.execute(
                "update inbox_targets set state = 'ready' where stream = $1 and incarnation < "
                "$2 and state = 'stored'",
                self.stream,
                incarnation,
            )
        return int(
            await connection.fetchval(
                "select settled_to from inbox_streams where stream = $1 and incarnation = $2 "
                "for update",
                self.stream,
                incarnation,
            )
        )

    async def _insert(
        self, connection: Connection, arrivals: Sequence[Arrival[MessageT]]
    ) -> set[int]:
        """The sequences that were new, by place and by id."""
        if not arrivals:
            return set()
        rows = await connection.fetch(
            "insert into inbox (stream, incarnation, sequence, message_id, content_hash, "
            "subject, source, traceparent,"
            " body, stream_time) select $1, * from unnest($2::timestamptz[], $3::bigint[], "
            "$4::text[], $5::bytea[],"
            " $6::text[], $7::text[], $8::text[], $9::bytea[], $10::timestamptz[])"
            " on conflict do nothing returning sequence",
            self.stream,
            *_columns(arrivals),
        )
        return {row["sequence"] for row in rows}

    async def _judge(
        self, connection: Connection, incarnation: datetime, rest: Sequence[Arrival[MessageT]]
    ) -> tuple[list[Arrival[MessageT]], list[Arrival[MessageT]]]:
        """What was not new: delivered again (nothing to do), settled without effect, or in
        conflict."""
        if not rest:
            return [], []
        rows = await connection.fetch(
            "select sequence, incarnation, message_id, content_hash from inbox where (stream = "
            "$1 and incarnation = $2"
            " and sequence = any($3::bigint[])) or message_id = any($4::text[])",
            self.stream,
            incarnation,
            [a.delivery.sequence for a in rest],
            [a.delivery.id for a in rest if a.keys],
        )
        places = {
            row["sequence"]: row["content_hash"]
            for row in rows
            if row["incarnation"] == incarnation
        }
        contents = {
            row["message_id"]: row["content_hash"] for row in rows if row["message_id"] is not None
        }
        settled, conflicts = [], []
        for arrival in rest:
            known = contents.get(arrival.delivery.id)
            if arrival.delivery.sequence in places:
                known = places[arrival.delivery.sequence]
                if known in (None, arrival.content_hash):
                    continue
            if arrival.keys and known != arrival.content_hash:
                conflicts.append(arrival)
            else:
                settled.append(arrival)
        return settled, conflicts

    async def _insert_settled(
        self, connection: Connection, arrivals: Sequence[Arrival[MessageT]]
    ) -> None:
        await connection.executemany(
            "insert into inbox (stream, incarnation, sequence, subject, stream_time) values "
            "($1, $2, $3, $4, $5)"
            " on conflict do nothing",
            [
                (
                    self.stream,
                    a.incarnation,
                    a.delivery.sequence,
                    a.delivery.subject,
                    a.delivery.stream_time,
                )
                for a in arrivals
            ],
        )

    async def _insert_targets(
        self, connection: Connection, arrivals: Sequence[Arrival[MessageT]]
    ) -> None:
        pairs = [
            (a.incarnation, a.delivery.sequence, key)
            for a in arrivals
            for key in dict.fromkeys(a.keys)
        ]
        if not pairs:
            return
        incarnations, sequences, keys = zip(*pairs, strict=True)
        await connection.execute(
            "insert into inbox_targets (stream, incarnation, sequence, key, state)"
            " select $1, *, 'stored' from unnest($2::timestamptz[], $3::bigint[], $4::text[]) "
            "on conflict do nothing",
            self.stream,
            incarnations,
            sequences,
            keys,
        )
        await connection.execute(
            "insert into inbox_keys select distinct unnest($1::text[]) order by 1 on conflict "
            "do nothing",
            keys,
        )

    async def _advance(
        self, connection: Connection, incarnation: datetime, settled_to: int
    ) -> None:
        """Moves the mark over what is stored without a gap, and readies what it passed."""
        rows = await connection.fetch(
            "select sequence from inbox where stream = $1 and incarnation = $2 and sequence > "
            "$3 order by sequence"
            " limit $4",
            self.stream,
            incarnation,
            settled_to,
            _LOOK_AHEAD,
        )
        mark = _contiguous(settled_to, (row["sequence"] for row in rows))
        await connection.execute(
            "update inbox_streams set settled_to = greatest(settled_to, $3) where stream = $1 "
            "and incarnation = $2",
            self.stream,
            incarnation,
            mark,
        )
        await connection.execute(
            "update inbox_targets set state = 'ready' where stream = $1 and incarnation = $2 "
            "and state = 'stored' and"
            " (sequence <= $3 or exists (select from inbox_streams s where s.stream = $1 and "
            "s.incarnation > $2))",
            self.stream,
            incarnation,
            mark,
        )


async def lock_ready(
    connection: Connection, limit: int, only: str | None = None, *, library: bool | None = None
) -> list[str]:
    """Keys with something ready (``only``: this one, if it has), locked until the transaction ends;
    those that another replica holds are left to it. ``library``: only keys that begin with ``@``,
    or (False) only others."""
    rows = await connection.fetch(
        "select key from inbox_keys where key in (select distinct key from inbox_targets where "
        "state = 'ready' and"
        " ($2::text is null or key = $2) and ($3::boolean is null or starts_with(key, '@') = $3))"
        " limit $1 for update skip locked",
        limit,
        only,
        library,
    )
    return [row["key"] for row in rows]


async def ready_keys(pool: Pool, limit: int) -> list[str]:
    """Keys with something ready, not locked."""
    rows = await pool.fetch(
        "select distinct key from inbox_targets where state = 'ready' limit $1", limit
    )
    return [row["key"] for row in rows]


async def lock_key(connection: Connection, key: str) -> None:
    """Waits for the key's lock."""
    await connection.execute("insert into inbox_keys values ($1) on conflict do nothing", key)
    await connection.fetchval("select 1 from inbox_keys where key = $1 for update", key)


async def waiting(connection: Connection, keys: Sequence[str]) -> dict[str, list[Target]]:
    """What may run under keys whose locks are held, ready or held back, in the stream's order."""
    # offset 0: one index look-up a target, however much the inbox holds.
    rows = await connection.fetch(
        "select t.key, i.stream, i.incarnation, i.sequence, i.message_id, i.subject, i.source, "
        "i.traceparent, i.body,"
        " i.stream_time from inbox_targets t cross join lateral (select * from inbox i where "
        "(i.stream, i.incarnation,"
        " i.sequence) = (t.stream, t.incarnation, t.sequence) offset 0) i"
        " where t.key = any($1::text[]) and t.state <> 'stored' order by t.key, i.incarnation, "
        "i.sequence",
        keys,
    )
    found: dict[str, list[Target]] = {key: [] for key in keys}
    for row in rows:
        found[row["key"]].append(Target(**dict(row)))
    return found


async def finish(connection: Connection, targets: Iterable[Target]) -> None:
    """They ran: with the last of a message's targets its body goes."""
    places = _places(targets)
    if not places:
        return
    await connection.execute(
        "delete from inbox_targets t using unnest($1::text[], $2::timestamptz[], $3::bigint[], "
        "$4::text[])"
        " as d (stream, incarnation, sequence, key) where (t.stream, t.incarnation, "
        "t.sequence, t.key) ="
        " (d.stream, d.incarnation, d.sequence, d.key)",
        *places,
    )
    await connection.execute(
        "update inbox i set body = null, traceparent = null, source = '' from (select distinct "
        "* from"
        " unnest($1::text[], $2::timestamptz[], $3::bigint[]) as u (stream, incarnation, "
        "sequence)) d"
        " where (i.stream, i.incarnation, i.sequence) = (d.stream, d.incarnation, d.sequence) "
        "and not exists (select"
        " from inbox_targets t where (t.stream, t.incarnation, t.sequence) = (d.stream, "
        "d.incarnation, d.sequence))",
        *places[:3],
    )


async def hold(connection: Connection, targets: Iterable[Target]) -> None:
    """They wait for what is pending under their key: a later target of it, or release(), brings
    them back."""
    places = _places(targets)
    if places:
        await connection.execute(
            "update inbox_targets t set state = 'held' from unnest($1::text[], "
            "$2::timestamptz[], $3::bigint[],"
            " $4::text[]) as d (stream, incarnation, sequence, key) where t.state = 'ready' "
            "and (t.stream,"
            " t.incarnation, t.sequence, t.key) = (d.stream, d.incarnation, d.sequence, d.key)",
            *places,
        )


async def release(connection: Connection, keys: Sequence[str]) -> None:
    """What was held back under the keys is ready again. The caller wakes the runner after its
    commit."""
    await connection.execute(
        "update inbox_targets set state = 'ready' where key = any($1::text[]) and state = 'held'",
        keys,
    )


async def listen(pool: Pool, wake: asyncio.Event) -> None:
    """For ever: sets ``wake`` when any replica stored something."""
    await pool_listen(pool, CHANNEL, wake)


def _contiguous(start: int, sequences: Iterable[int]) -> int:
    mark = start
    for sequence in sequences:
        if sequence != mark + 1:
            break
        mark = sequence
    return mark


def _columns(arrivals: Sequence[Arrival[MessageT]]) -> list[list[Any]]:
    return [
        [a.incarnation for a in arrivals],
        [a.delivery.sequence for a in arrivals],
        [a.delivery.id for a in arrivals],
        [a.content_hash for a in arrivals],
        [a.delivery.subject for a in arrivals],
        [_text(a.delivery.source) for a in arrivals],
        [_text(a.delivery.traceparent or "") for a in arrivals],
        [a.delivery.body for a in arrivals],
        [a.delivery.stream_time for a in arrivals],
    ]


def _text(header: str) -> str:
    """What PostgreSQL takes as text, whatever a sender wrote: no NUL, no lone surrogate, not
    endless."""
    return header.replace("\0", "")[:_HEADER].encode(errors="replace").decode()


def _places(targets: Iterable[Target]) -> list[list[Any]]:
    columns = list(
        zip(*((t.stream, t.incarnation, t.sequence, t.key) for t in targets), strict=True)
    )
    return [list(column) for column in columns]
