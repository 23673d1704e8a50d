"""Usage batches in: many a transaction, each byte range counted exactly once (rule E5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

from services.billing.domain import ranges
from services.billing.domain.usage_aggregator import Tally
from services.billing.domain.wire_format import (
    Batch,
    cell_rows,
    pack_cells,
    read_batch,
    unpack_cells,
)
from services.billing.metrics import BAD_LINES, BATCHES, CELLS, DIVERTED
from services.billing.store import logs, usage
from services.billing.store.logs import Archived, Diverted, Held, LogKey, LogState, Refusal, Stored
from services.billing.store.partitions import Partitions
from services.billing.usecases.accrue import accrue
from services.billing.usecases.reference_cache import Book
from shared.clock import Clock
from shared.contracts.usage import Confirmation
from shared.errors import Malformed
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection, Pool

_LAST_MINUTE: Final = 2**31 - 1


@dataclass(frozen=True)
class Arrived:
    """A readable batch: just delivered, or held since (then without its delivery)."""

    key: LogKey
    batch: Batch
    body: bytes
    delivery: Delivery | None = None

    @property
    def start(self) -> int:
        return self.batch.start

    @property
    def end(self) -> int:
        return self.batch.end

    def held(self) -> Held:
        return Held(self.key, self.start, self.end, self.body)


@dataclass
class Taken:
    """After the commit. ``confirmations``: one a log, at its stored end; ``unburied``: refused, no
    dead letter yet."""

    confirmations: list[Confirmation] = field(default_factory=list)
    unburied: list[tuple[Delivery, Refusal]] = field(default_factory=list)


@dataclass
class _Lot:
    """What one transaction will write. ``repeated``: ranges with content that came before;
    ``waited``: bodies, by digest, of refused batches without a delivery."""

    now: datetime
    tally: Tally = field(default_factory=Tally)
    accepted: list[Arrived] = field(default_factory=list)
    repeated: list[Arrived] = field(default_factory=list)
    to_hold: list[Held] = field(default_factory=list)
    to_release: list[Held] = field(default_factory=list)
    refused: list[tuple[Delivery | None, Refusal]] = field(default_factory=list)
    waited: dict[bytes, bytes] = field(default_factory=dict)
    confirmed: set[LogKey] = field(default_factory=set)

    def refuse(self, one: Arrived, reason: str, stored_to: int) -> None:
        refusal = Refusal(
            one.key.node, _digest(one.body), reason, one.key.log, one.start, one.end, stored_to
        )
        if one.delivery is None:
            self.waited[refusal.digest] = one.body
        self.refused.append((one.delivery, refusal))


class Ingest:
    """``take`` commits what arrived together; ``drain`` what waited for its node to become
    known."""

    def __init__(self, pool: Pool, book: Book, partitions: Partitions, clock: Clock) -> None:
        self._pool, self._book, self._partitions, self._clock = pool, book, partitions, clock

    async def take(self, deliveries: Sequence[Delivery]) -> Taken:
        lot = _Lot(self._clock.now())
        arrived = [one for delivery in deliveries if (one := _read(delivery, lot)) is not None]
        await self._partitions.ensure(lot.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._book.open(connection)
            known = await self._book.known_nodes(connection, {one.key.node for one in arrived})
            strangers = [one.held() for one in arrived if one.key.node not in known]
            BATCHES.labels(fate="unknown_node").inc(len(strangers))
            await logs.hold(connection, strangers, lot.now)
            return await self._commit(
                connection, [one for one in arrived if one.key.node in known], lot
            )

    async def drain(self, node: str) -> Taken:
        lot = _Lot(self._clock.now())
        await self._partitions.ensure(lot.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._book.open(connection)
            if not await self._book.known_nodes(connection, {node}):
                return Taken()
            return await self._commit(
                connection, [], lot, await logs.logs_that_wait(connection, node)
            )

    async def _commit(
        self,
        connection: Connection,
        arrived: Sequence[Arrived],
        lot: _Lot,
        waiting: Iterable[LogKey] = (),
    ) -> Taken:
        by_log: dict[LogKey, list[Arrived]] = defaultdict(list)
        for key in waiting:
            by_log[key] = []
        for one in arrived:
            by_log[one.key].append(one)
        if by_log:
            states = await logs.lock_logs(connection, {*by_log, *_previous(arrived)}, lot.now)
            held: dict[LogKey, list[Arrived]] = defaultdict(list)
            for row in await logs.held_of(connection, by_log):
                held[row.key].append(_again(row))
            for one in (*arrived, *(one for batches in held.values() for one in batches)):
                _learn(one, states)
            for key, batches in by_log.items():
                _place(key, held[key], batches, states[key], lot)
            await self._write(connection, lot, states)
            await _refuse_what_differs(connection, lot, states)
        unburied = await logs.refuse(
            connection, [refusal for _, refusal in lot.refused], lot.waited, lot.now
        )
        confirmed = [
            Confirmation(node=k.node, log=k.log, end=states[k].stored_to)
            for k in sorted(lot.confirmed)
        ]
        once = {
            r.digest: (d or logs.late_delivery(r.node, lot.waited[r.digest], lot.now), r)
            for d, r in lot.refused
            if r.digest in unburied
        }
        return Taken(confirmed, list(once.values()))

    async def _write(
        self, connection: Connection, lot: _Lot, states: dict[LogKey, LogState]
    ) -> None:
        diverted = await self._add_up(connection, lot)
        await logs.save_logs(connection, states, lot.now)
        await logs.release(connection, lot.to_release)
        await logs.hold(connection, lot.to_hold, lot.now)
        await logs.archive(
            connection, [_archived(one) for one in lot.accepted if one.start < one.end], lot.now
        )
        await logs.divert(connection, diverted, lot.now)
        await usage.add(connection, lot.tally.minutes())
        await accrue(connection, lot.tally.accrued(), self._book.terms(lot.now))
        CELLS.inc(sum(len(one.batch.cells) for one in lot.accepted) - len(diverted))
        BAD_LINES.inc(sum(one.batch.bad_lines for one in lot.accepted))

    async def _add_up(self, connection: Connection, lot: _Lot) -> list[Diverted]:
        domains = {cell.domain for one in lot.accepted for cell in one.batch.cells}
        owners = await self._book.owners(connection, domains)
        now_minute = int(lot.now.timestamp()) // 60
        diverted: list[Diverted] = []
        for one in lot.accepted:
            for cell, reason in lot.tally.add(one.key.node, one.batch.cells, owners, now_minute):
                DIVERTED.labels(reason=reason).inc()
                counts = cell.https_requests, cell.https_bytes, cell.http_requests, cell.http_bytes
                shown = cell.domain.encode("unicode_escape").decode()
                diverted.append(
                    Diverted(one.key, one.start, one.end, reason, shown, cell.minute, counts)
                )
        return diverted


def _read(delivery: Delivery, lot: _Lot) -> Arrived | None:
    """None, and a refusal, when it is not a batch or speaks for another node than its subject."""
    node = delivery.subject.rpartition(".")[2]
    try:
        batch = read_batch(delivery.body)
        if batch.node != node:
            raise Malformed(f"sent by node {node} for another one")
    except Malformed as error:
        BATCHES.labels(fate="malformed").inc()
        lot.refused.append(
            (delivery, Refusal(node, _digest(delivery.body), f"{error.reason}: {error}"))
        )
        return None
    return Arrived(LogKey(batch.node, batch.log), batch, delivery.body, delivery)


def _again(held: Held) -> Arrived:
    return Arrived(held.key, read_batch(held.body), held.body)


def _place(
    key: LogKey, held: Sequence[Arrived], batches: Sequence[Arrived], state: LogState, lot: _Lot
) -> None:
    """Decides about the ranges of one log and moves its state."""
    lineup = ranges.line_up(state.stored_to, (*held, *batches), state.final_length)
    state.stored_to = lineup.stored_to
    state.read_to = max(state.read_to, state.stored_to)
    state.bad_lines += sum(one.batch.bad_lines for one in lineup.accepted)
    lot.accepted += lineup.accepted
    lot.repeated += [one for one in lineup.repeated if one.start < one.end]
    for one, fate in lineup.refused:
        lot.refuse(one, fate.value, lineup.stored_to)
    waiting = {id(one) for one in lineup.held}
    lot.to_release += [one.held() for one in held if id(one) not in waiting]
    lot.to_hold += [
        one.held() for one in lineup.held if one.delivery is not None and one.start < one.end
    ]
    if lineup.accepted or lineup.repeated or lineup.refused:
        lot.confirmed.add(key)
    for fate_name, count in (
        ("accept", len(lineup.accepted)),
        ("repeat", len(lineup.repeated)),
        ("hold", len(lineup.held)),
    ):
        BATCHES.labels(fate=fate_name).inc(count)
    for _, fate in lineup.refused:
        BATCHES.labels(fate=fate.value).inc()


async def _refuse_what_differs(
    connection: Connection, lot: _Lot, states: dict[LogKey, LogState]
) -> None:
    """A range that comes again is dropped; with other content than what was counted somebody must
    hear of it: a node whose disk was put back writes other requests to places that were read
    before."""
    if not lot.repeated:
        return
    stored = await logs.archived_at(connection, [(one.key, one.start) for one in lot.repeated])
    for one in lot.repeated:
        before = stored.get((one.key, one.start))
        differs = (
            await logs.is_archived_otherwise(connection, one.key, one.start, one.end)
            if before is None
            else not _is_the_same(one, before)
        )
        if differs:
            BATCHES.labels(fate="conflict").inc()
            lot.refuse(
                one,
                "conflict: the range was counted with another content",
                states[one.key].stored_to,
            )


def _is_the_same(one: Arrived, before: Stored) -> bool:
    batch = one.batch
    return (before.end, before.bad_lines) == (one.end, batch.bad_lines) and (
        unpack_cells(before.cells) == cell_rows(batch.cells)
    )


def _learn(one: Arrived, states: dict[LogKey, LogState]) -> None:
    """What a batch says beyond its range, and whatever becomes of it. The first final length of a
    log stands."""
    batch, state = one.batch, states[one.key]
    state.read_to = max(state.read_to, batch.read_to)
    if batch.final:
        _end(state, batch.end)
    if batch.previous is not None and batch.previous.log != one.key.log:
        # One that waited for its node may name a log that is not locked here: its next batch names
        # it again.
        _end(states.get(LogKey(one.key.node, batch.previous.log)), batch.previous.length)


def _end(state: LogState | None, length: int) -> None:
    if state is not None and state.final_length is None and length >= state.stored_to:
        state.final_length = length


def _previous(arrived: Iterable[Arrived]) -> set[LogKey]:
    return {
        LogKey(one.key.node, one.batch.previous.log)
        for one in arrived
        if one.batch.previous is not None
    }


def _archived(one: Arrived) -> Archived:
    batch = one.batch
    minutes = [cell.minute for cell in batch.cells if abs(cell.minute) <= _LAST_MINUTE]
    return Archived(
        one.key,
        one.start,
        one.end,
        batch.read_to,
        batch.bad_lines,
        len(batch.cells),
        pack_cells(batch.cells),
        min(minutes, default=None),
        max(minutes, default=None),
    )


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
