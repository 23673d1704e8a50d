"""Commands that a stream delivered: stored before they are acked, then run once each, in the
stream's order, by any replica.

A message has one row, and a target row for each key that it concerns. A target is ready when every
lower sequence of its stream is settled. The replica that holds the lock of a key runs what is ready
under it, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Generic, Protocol, TypeVar

from shared.storage.pool import Connection, Pool
from shared.storage.pool import listen as listen_to_channel

CHANNEL = "inbox"
KEEP_DAYS = 35
_LOOK_AHEAD = 10_000
_HEADER_CHARACTERS = 256

_INSERT_MESSAGES = """
insert into inbox (stream, incarnation, sequence, message_id, content_hash, subject, source,
    traceparent, body, stream_time)
select $1, $2, * from unnest($3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[],
    $8::text[], $9::bytea[], $10::timestamptz[])
on conflict do nothing returning sequence
"""
_INSERT_SETTLED = """
insert into inbox (stream, incarnation, sequence, subject, stream_time)
values ($1, $2, $3, $4, $5) on conflict do nothing
"""
_INSERT_TARGETS = """
insert into inbox_targets (stream, incarnation, sequence, key, state)
select $1, $2, *, 'stored' from unnest($3::bigint[], $4::text[])
on conflict do nothing
"""
_INSERT_KEYS = """
insert into inbox_keys select distinct unnest($1::text[]) order by 1 on conflict do nothing
"""
_KNOWN_MESSAGES = """
select sequence, incarnation, message_id, content_hash from inbox
where (stream = $1 and incarnation = $2 and sequence = any($3::bigint[]))
    or message_id = any($4::text[])
"""
_STORED_ABOVE = """
select sequence from inbox where stream = $1 and incarnation = $2 and sequence > $3
order by sequence limit $4
"""
_MOVE_MARK = """
update inbox_streams set settled_to = greatest(settled_to, $3)
where stream = $1 and incarnation = $2
"""
_READY_UP_TO_MARK = """
update inbox_targets set state = 'ready'
where stream = $1 and incarnation = $2 and state = 'stored'
    and (sequence <= $3
        or exists (select from inbox_streams s where s.stream = $1 and s.incarnation > $2))
"""
_READY_OLDER_INCARNATIONS = """
update inbox_targets set state = 'ready'
where stream = $1 and incarnation < $2 and state = 'stored'
"""
_LOCK_READY_KEYS = """
select key from inbox_keys where key in (
    select distinct key from inbox_targets where state = 'ready'
        and ($2::text is null or key = $2)
        and starts_with(key, $3) and ($4::text is null or not starts_with(key, $4)))
limit $1 for update skip locked
"""
# offset 0: one index look-up for each target, however much the inbox holds.
_QUEUES = """
select t.key, i.stream, i.incarnation, i.sequence, i.message_id, i.subject, i.source,
    i.traceparent, i.body, i.stream_time
from inbox_targets t cross join lateral (
    select * from inbox i where (i.stream, i.incarnation, i.sequence) =
        (t.stream, t.incarnation, t.sequence) offset 0) i
where t.key = any($1::text[]) and t.state <> 'stored'
order by t.key, i.incarnation, i.sequence
"""
# Whole positions in arrays, and not the stream and its incarnation by themselves: with those the
# planner reads all of a table that it takes to be small.
_DELETE_TARGETS = """
delete from inbox_targets t
using unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::text[])
    as d (stream, incarnation, sequence, key)
where (t.stream, t.incarnation, t.sequence, t.key) =
    (d.stream, d.incarnation, d.sequence, d.key)
"""
_DROP_BODIES = """
update inbox i set body = null, traceparent = null, source = ''
from (select distinct * from unnest($1::text[], $2::timestamptz[], $3::bigint[])
    as u (stream, incarnation, sequence)) d
where (i.stream, i.incarnation, i.sequence) = (d.stream, d.incarnation, d.sequence)
    and not exists (select from inbox_targets t where (t.stream, t.incarnation, t.sequence) =
        (d.stream, d.incarnation, d.sequence))
"""
_HOLD_TARGETS = """
update inbox_targets t set state = 'held'
from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::text[])
    as d (stream, incarnation, sequence, key)
where t.state = 'ready' and (t.stream, t.incarnation, t.sequence, t.key) =
    (d.stream, d.incarnation, d.sequence, d.key)
"""
_DELETE_OLD_MESSAGES = """
delete from inbox i where stored_at < now() - make_interval(days => $1)
    and not exists (select from inbox_targets t where (t.stream, t.incarnation, t.sequence) =
        (i.stream, i.incarnation, i.sequence))
"""


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
class ArrivedMessage(Generic[MessageT]):
    """A delivery with the keys that it concerns.

    ``incarnation``: when its stream was made. Without keys it counts as settled and has no effect:
    poison that is a dead letter already."""

    delivery: MessageT
    incarnation: datetime
    keys: tuple[str, ...] = ()

    @property
    def content_hash(self) -> bytes:
        """Return the SHA-256 of subject and body."""
        return sha256(self.delivery.subject.encode() + b"\0" + self.delivery.body).digest()


@dataclass(frozen=True)
class QueuedCommand:
    """One stored message under one of its keys, waiting to run.

    The body is deleted with the last target of the message that ran."""

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
class StoreResult(Generic[MessageT]):
    """How many messages were new and how many were duplicates.

    ``conflicts`` have the id of another message with another content. They are not settled: make
    each a dead letter, then store it without keys."""

    fresh: int
    duplicates: int
    conflicts: list[ArrivedMessage[MessageT]]


class Inbox:
    """The inbox of one stream."""

    def __init__(self, pool: Pool, stream: str) -> None:
        self._pool = pool
        self.stream = stream

    async def store(self, arrived: Sequence[ArrivedMessage[MessageT]]) -> StoreResult[MessageT]:
        """Store messages in one transaction. After it returns, ack all but the conflicts.

        The row of the stream is locked, so that two replicas agree on what is settled."""
        stored: StoreResult[MessageT] = StoreResult(0, 0, [])
        async with self._pool.acquire() as connection, connection.transaction():
            for incarnation in sorted({message.incarnation for message in arrived}):
                batch = [message for message in arrived if message.incarnation == incarnation]
                part = await self._store_incarnation(connection, incarnation, batch)
                stored = StoreResult(
                    stored.fresh + part.fresh,
                    stored.duplicates + part.duplicates,
                    stored.conflicts + part.conflicts,
                )
            if stored.fresh or stored.duplicates:
                await connection.execute(f"notify {CHANNEL}")
        return stored

    async def settle_below(self, incarnation: datetime, ack_floor: int) -> bool:
        """Settle every sequence up to the consumer's ack floor; return whether that is news.

        A sequence below the floor that is not stored will never be delivered."""
        async with self._pool.acquire() as connection, connection.transaction():
            settled_to = await self._lock_stream(connection, incarnation)
            if ack_floor <= settled_to:
                return False
            await self._advance(connection, incarnation, ack_floor)
            await connection.execute(f"notify {CHANNEL}")
            return True

    async def waits_for_gap(self) -> bool:
        """Return whether a missing lower sequence keeps a stored message from running."""
        return bool(
            await self._pool.fetchval(
                "select exists (select from inbox_targets where stream = $1 and state = 'stored')",
                self.stream,
            )
        )

    async def load_incarnations(self) -> list[datetime]:
        """Return when each known incarnation of the stream was made, the oldest first."""
        rows = await self._pool.fetch(
            "select incarnation from inbox_streams where stream = $1 order by incarnation",
            self.stream,
        )
        return [row["incarnation"] for row in rows]

    async def delete_old_messages(self) -> None:
        """Forget ids after 35 days. The stream's own window of duplicates is two minutes."""
        await self._pool.execute(_DELETE_OLD_MESSAGES, KEEP_DAYS)

    async def _store_incarnation(
        self,
        connection: Connection,
        incarnation: datetime,
        arrived: Sequence[ArrivedMessage[MessageT]],
    ) -> StoreResult[MessageT]:
        settled_to = await self._lock_stream(connection, incarnation)
        with_keys = [message for message in arrived if message.keys]
        fresh_sequences = await self._insert_messages(connection, incarnation, with_keys)
        fresh = []
        known = []
        for message in arrived:
            if message.delivery.sequence in fresh_sequences:
                fresh.append(message)
            else:
                known.append(message)
        duplicates, conflicts = await self._judge_known(connection, incarnation, known)
        await self._insert_settled(connection, duplicates)
        await self._insert_targets(connection, incarnation, fresh)
        await self._advance(connection, incarnation, settled_to)
        return StoreResult(len(fresh_sequences), len(duplicates), conflicts)

    async def _lock_stream(self, connection: Connection, incarnation: datetime) -> int:
        """Return the sequence up to which the incarnation is settled, its row locked.

        The first message of a new incarnation settles the older ones: what is missing of them is
        lost."""
        is_new = await connection.fetchval(
            "insert into inbox_streams (stream, incarnation) values ($1, $2) on conflict do "
            "nothing returning true",
            self.stream,
            incarnation,
        )
        if is_new:
            await connection.execute(_READY_OLDER_INCARNATIONS, self.stream, incarnation)
        settled_to = await connection.fetchval(
            "select settled_to from inbox_streams where stream = $1 and incarnation = $2 "
            "for update",
            self.stream,
            incarnation,
        )
        return int(settled_to)

    async def _insert_messages(
        self,
        connection: Connection,
        incarnation: datetime,
        arrived: Sequence[ArrivedMessage[MessageT]],
    ) -> set[int]:
        """Insert what is new by its position and by its id; return the sequences inserted."""
        if not arrived:
            return set()
        rows = await connection.fetch(
            _INSERT_MESSAGES,
            self.stream,
            incarnation,
            [message.delivery.sequence for message in arrived],
            [message.delivery.id for message in arrived],
            [message.content_hash for message in arrived],
            [message.delivery.subject for message in arrived],
            [_storable_text(message.delivery.source) for message in arrived],
            [_storable_text(message.delivery.traceparent or "") for message in arrived],
            [message.delivery.body for message in arrived],
            [message.delivery.stream_time for message in arrived],
        )
        return {row["sequence"] for row in rows}

    async def _judge_known(
        self,
        connection: Connection,
        incarnation: datetime,
        arrived: Sequence[ArrivedMessage[MessageT]],
    ) -> tuple[list[ArrivedMessage[MessageT]], list[ArrivedMessage[MessageT]]]:
        """Split what was not inserted into messages settled without effect and conflicts."""
        if not arrived:
            return [], []
        rows = await connection.fetch(
            _KNOWN_MESSAGES,
            self.stream,
            incarnation,
            [message.delivery.sequence for message in arrived],
            [message.delivery.id for message in arrived if message.keys],
        )
        hash_at_sequence: dict[int, bytes | None] = {}
        hash_of_id: dict[str, bytes | None] = {}
        for row in rows:
            if row["incarnation"] == incarnation:
                hash_at_sequence[row["sequence"]] = row["content_hash"]
            if row["message_id"] is not None:
                hash_of_id[row["message_id"]] = row["content_hash"]
        # A row at the same position with the same content, or settled without content, is a
        # redelivery: it is stored already, and only the ack was lost. Everything else holds a
        # sequence that no row holds yet. It must get a row, or the mark of what is settled would
        # stop below it for ever:
        # - without keys (poison) a bare row, which has no effect;
        # - a copy, the same id with the same content, a bare row as well: the first one runs;
        # - the same id with another content is a conflict. It gets no row here, so that it stays
        #   unsettled and is delivered again until its dead letter is stored. Then the caller
        #   stores it without keys. The other order would lose it if the process died in between.
        settled = []
        conflicts = []
        for message in arrived:
            known_hash = hash_of_id.get(message.delivery.id)
            if message.delivery.sequence in hash_at_sequence:
                known_hash = hash_at_sequence[message.delivery.sequence]
                if known_hash in (None, message.content_hash):
                    continue
            if message.keys and known_hash != message.content_hash:
                conflicts.append(message)
            else:
                settled.append(message)
        return settled, conflicts

    async def _insert_settled(
        self, connection: Connection, arrived: Sequence[ArrivedMessage[MessageT]]
    ) -> None:
        """Insert bare rows: sequences that count as settled and have no effect."""
        rows = []
        for message in arrived:
            delivery = message.delivery
            position = (self.stream, message.incarnation, delivery.sequence)
            rows.append((*position, delivery.subject, delivery.stream_time))
        await connection.executemany(_INSERT_SETTLED, rows)

    async def _insert_targets(
        self,
        connection: Connection,
        incarnation: datetime,
        arrived: Sequence[ArrivedMessage[MessageT]],
    ) -> None:
        sequences = []
        keys = []
        for message in arrived:
            for key in dict.fromkeys(message.keys):
                sequences.append(message.delivery.sequence)
                keys.append(key)
        if not keys:
            return
        await connection.execute(_INSERT_TARGETS, self.stream, incarnation, sequences, keys)
        await connection.execute(_INSERT_KEYS, keys)

    async def _advance(
        self, connection: Connection, incarnation: datetime, settled_to: int
    ) -> None:
        """Move the mark over what is stored without a gap, and make ready what it passed.

        Invariant: every sequence at or below the mark is settled, which means stored (with keys or
        without) or below the consumer's ack floor. A message may run only below the mark, or when
        a newer incarnation exists: then nothing that came before it can still be delivered. The
        batches of two replicas reach this table in any order, and the mark alone puts them back
        into the order of the stream. It never moves down."""
        rows = await connection.fetch(
            _STORED_ABOVE, self.stream, incarnation, settled_to, _LOOK_AHEAD
        )
        mark = settled_to
        for row in rows:
            if row["sequence"] != mark + 1:
                break
            mark += 1
        await connection.execute(_MOVE_MARK, self.stream, incarnation, mark)
        await connection.execute(_READY_UP_TO_MARK, self.stream, incarnation, mark)


async def lock_ready_keys(
    connection: Connection,
    limit: int,
    only: str | None = None,
    *,
    prefix: str = "",
    without_prefix: str | None = None,
) -> list[str]:
    """Lock keys with something ready until the transaction ends, and return them.

    Keys that another replica holds are left to it. ``only`` limits to one key, ``prefix`` to keys
    that begin with it, ``without_prefix`` to keys that do not begin with it."""
    rows = await connection.fetch(_LOCK_READY_KEYS, limit, only, prefix, without_prefix)
    return [row["key"] for row in rows]


async def find_ready_keys(pool: Pool, limit: int) -> list[str]:
    """Return keys with something ready, without locking them."""
    rows = await pool.fetch(
        "select distinct key from inbox_targets where state = 'ready' limit $1", limit
    )
    return [row["key"] for row in rows]


async def lock_key(connection: Connection, key: str) -> None:
    """Wait for the lock of a key and hold it until the transaction ends."""
    await connection.execute("insert into inbox_keys values ($1) on conflict do nothing", key)
    await connection.fetchval("select 1 from inbox_keys where key = $1 for update", key)


async def load_queues(
    connection: Connection, keys: Sequence[str]
) -> dict[str, list[QueuedCommand]]:
    """Return what may run under locked keys, ready or held back, in the stream's order."""
    queues: dict[str, list[QueuedCommand]] = {key: [] for key in keys}
    for row in await connection.fetch(_QUEUES, keys):
        queues[row["key"]].append(QueuedCommand(**row))
    return queues


async def finish_commands(connection: Connection, commands: Sequence[QueuedCommand]) -> None:
    """Delete targets that ran, and the body of each message whose last target ran."""
    if not commands:
        return
    columns = _position_columns(commands)
    await connection.execute(_DELETE_TARGETS, *columns, [command.key for command in commands])
    await connection.execute(_DROP_BODIES, *columns)


async def hold_commands(connection: Connection, commands: Sequence[QueuedCommand]) -> None:
    """Mark commands as waiting for what is pending under their key.

    A later command under the key, or ``release_keys``, brings them back."""
    if commands:
        columns = _position_columns(commands)
        await connection.execute(_HOLD_TARGETS, *columns, [command.key for command in commands])


async def release_keys(connection: Connection, keys: Sequence[str]) -> None:
    """Make ready what was held back under keys. Wake the runner after the commit."""
    await connection.execute(
        "update inbox_targets set state = 'ready' where key = any($1::text[]) and state = 'held'",
        keys,
    )


async def listen(pool: Pool, wake: asyncio.Event) -> None:
    """Set ``wake`` whenever any replica stored something. Never returns."""
    await listen_to_channel(pool, CHANNEL, wake)


def _position_columns(commands: Iterable[QueuedCommand]) -> list[list[Any]]:
    streams = []
    incarnations = []
    sequences = []
    for command in commands:
        streams.append(command.stream)
        incarnations.append(command.incarnation)
        sequences.append(command.sequence)
    return [streams, incarnations, sequences]


def _storable_text(header: str) -> str:
    """Return a header as PostgreSQL takes it: no NUL, no lone surrogate, 256 characters."""
    return header.replace("\0", "")[:_HEADER_CHARACTERS].encode(errors="replace").decode()
