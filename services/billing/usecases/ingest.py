"""Usage batches in: many a transaction, each byte range counted exactly once (rule E5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

from services.billing.domain import ranges
from services.billing.domain.usage_aggregator import UsageAggregator
from services.billing.domain.wire_format import (
    WireBatch,
    cell_rows,
    pack_cells,
    read_batch,
    unpack_cells,
)
from services.billing.metrics import BAD_LINES, BATCHES, CELLS, DIVERTED
from services.billing.store import logs, usage
from services.billing.store.logs import (
    ArchivedBatch,
    ArchivedRange,
    BatchRefusal,
    DivertedCell,
    HeldBatch,
    LogKey,
    LogState,
)
from services.billing.store.partitions import ArchiveMonths
from services.billing.usecases.accrue import accrue_usage
from services.billing.usecases.reference_cache import ReferenceCache
from shared.clock import Clock
from shared.contracts.usage import Confirmation
from shared.errors import Malformed
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection, Pool

_LAST_MINUTE: Final = 2**31 - 1


@dataclass(frozen=True)
class ReceivedBatch:
    """A readable batch: just delivered, or held since (then without its delivery)."""

    key: LogKey
    batch: WireBatch
    body: bytes
    delivery: Delivery | None = None

    @property
    def start(self) -> int:
        return self.batch.start

    @property
    def end(self) -> int:
        return self.batch.end

    def held(self) -> HeldBatch:
        return HeldBatch(self.key, self.start, self.end, self.body)


@dataclass
class IngestOutcome:
    """After the commit. ``confirmations``: one a log, at its stored end; ``unburied``: refused, no
    dead letter yet."""

    confirmations: list[Confirmation] = field(default_factory=list)
    unburied: list[tuple[Delivery, BatchRefusal]] = field(default_factory=list)


@dataclass
class _IngestWrites:
    """What one transaction will write. ``repeated``: ranges with content that came before;
    ``waited``: bodies, by digest, of refused batches without a delivery."""

    now: datetime
    tally: UsageAggregator = field(default_factory=UsageAggregator)
    accepted: list[ReceivedBatch] = field(default_factory=list)
    repeated: list[ReceivedBatch] = field(default_factory=list)
    to_hold: list[HeldBatch] = field(default_factory=list)
    to_release: list[HeldBatch] = field(default_factory=list)
    refused: list[tuple[Delivery | None, BatchRefusal]] = field(default_factory=list)
    waited: dict[bytes, bytes] = field(default_factory=dict)
    confirmed: set[LogKey] = field(default_factory=set)

    def refuse(self, one: ReceivedBatch, reason: str, stored_to: int) -> None:
        refusal = BatchRefusal(
            one.key.node, _digest(one.body), reason, one.key.log, one.start, one.end, stored_to
        )
        if one.delivery is None:
            self.waited[refusal.digest] = one.body
        self.refused.append((one.delivery, refusal))


class UsageIngest:
    """``take`` commits what arrived together; ``drain`` what waited for its node to become
    known."""

    def __init__(
        self, pool: Pool, cache: ReferenceCache, partitions: ArchiveMonths, clock: Clock
    ) -> None:
        self._pool, self._cache, self._partitions, self._clock = pool, cache, partitions, clock

    async def take(self, deliveries: Sequence[Delivery]) -> IngestOutcome:
        lot = _IngestWrites(self._clock.now())
        arrived = [one for delivery in deliveries if (one := _read(delivery, lot)) is not None]
        await self._partitions.ensure(lot.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._cache.open(connection)
            known = await self._cache.known_nodes(connection, {one.key.node for one in arrived})
            strangers = [one.held() for one in arrived if one.key.node not in known]
            BATCHES.labels(fate="unknown_node").inc(len(strangers))
            await logs.hold_batches(connection, strangers, lot.now)
            return await self._commit(
                connection, [one for one in arrived if one.key.node in known], lot
            )

    async def drain(self, node: str) -> IngestOutcome:
        lot = _IngestWrites(self._clock.now())
        await self._partitions.ensure(lot.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._cache.open(connection)
            if not await self._cache.known_nodes(connection, {node}):
                return IngestOutcome()
            return await self._commit(
                connection, [], lot, await logs.find_waiting_logs(connection, node)
            )

    async def _commit(
        self,
        connection: Connection,
        arrived: Sequence[ReceivedBatch],
        lot: _IngestWrites,
        waiting: Iterable[LogKey] = (),
    ) -> IngestOutcome:
        by_log: dict[LogKey, list[ReceivedBatch]] = defaultdict(list)
        for key in waiting:
            by_log[key] = []
        for one in arrived:
            by_log[one.key].append(one)
        if by_log:
            states = await logs.lock_logs(connection, {*by_log, *_previous(arrived)}, lot.now)
            held: dict[LogKey, list[ReceivedBatch]] = defaultdict(list)
            for row in await logs.load_held(connection, by_log):
                held[row.key].append(_again(row))
            for one in (*arrived, *(one for batches in held.values() for one in batches)):
                _learn(one, states)
            for key, batches in by_log.items():
                _place(key, held[key], batches, states[key], lot)
            await self._write(connection, lot, states)
            await _refuse_what_differs(connection, lot, states)
        unburied = await logs.record_refusals(
            connection, [refusal for _, refusal in lot.refused], lot.waited, lot.now
        )
        confirmed = [
            Confirmation(node=k.node, log=k.log, end=states[k].stored_to)
            for k in sorted(lot.confirmed)
        ]
        once = {
            r.digest: (d or logs.rebuild_delivery(r.node, lot.waited[r.digest], lot.now), r)
            for d, r in lot.refused
            if r.digest in unburied
        }
        return IngestOutcome(confirmed, list(once.values()))

    async def _write(
        self, connection: Connection, lot: _IngestWrites, states: dict[LogKey, LogState]
    ) -> None:
        diverted = await self._add_up(connection, lot)
        await logs.save_logs(connection, states, lot.now)
        await logs.release_batches(connection, lot.to_release)
        await logs.hold_batches(connection, lot.to_hold, lot.now)
        await logs.archive_batches(
            connection, [_archived(one) for one in lot.accepted if one.start < one.end], lot.now
        )
        await logs.divert_cells(connection, diverted, lot.now)
        await usage.add_minutes(connection, lot.tally.minutes())
        await accrue_usage(connection, lot.tally.accrued(), self._cache.terms(lot.now))
        CELLS.inc(sum(len(one.batch.cells) for one in lot.accepted) - len(diverted))
        BAD_LINES.inc(sum(one.batch.bad_lines for one in lot.accepted))

    async def _add_up(self, connection: Connection, lot: _IngestWrites) -> list[DivertedCell]:
        domains = {cell.domain for one in lot.accepted for cell in one.batch.cells}
        owners = await self._cache.owners(connection, domains)
        now_minute = int(lot.now.timestamp()) // 60
        diverted: list[DivertedCell] = []
        for one in lot.accepted:
            for cell, reason in lot.tally.add(one.key.node, one.batch.cells, owners, now_minute):
                DIVERTED.labels(reason=reason).inc()
                counts = cell.https_requests, cell.https_bytes, cell.http_requests, cell.http_bytes
                shown = cell.domain.encode("unicode_escape").decode()
                diverted.append(
                    DivertedCell(one.key, one.start, one.end, reason, shown, cell.minute, counts)
                )
        return diverted


def _read(delivery: Delivery, lot: _IngestWrites) -> ReceivedBatch | None:
    """None, and a refusal, when it is not a batch or speaks for another node than its subject."""
    node = delivery.subject.rpartition(".")[2]
    try:
        batch = read_batch(delivery.body)
        if batch.node != node:
            raise Malformed(f"sent by node {node} for another one")
    except Malformed as error:
        BATCHES.labels(fate="malformed").inc()
        lot.refused.append(
            (delivery, BatchRefusal(node, _digest(delivery.body), f"{error.reason}: {error}"))
        )
        return None
    return ReceivedBatch(LogKey(batch.node, batch.log), batch, delivery.body, delivery)


def _again(held: HeldBatch) -> ReceivedBatch:
    return ReceivedBatch(held.key, read_batch(held.body), held.body)


def _place(
    key: LogKey,
    held: Sequence[ReceivedBatch],
    batches: Sequence[ReceivedBatch],
    state: LogState,
    lot: _IngestWrites,
) -> None:
    """Decides about the ranges of one log and moves its state."""
    lineup = ranges.place_ranges(state.stored_to, (*held, *batches), state.final_length)
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
    connection: Connection, lot: _IngestWrites, states: dict[LogKey, LogState]
) -> None:
    """A range that comes again is dropped; with other content than what was counted somebody must
    hear of it: a node whose disk was put back writes other requests to places that were read
    before."""
    if not lot.repeated:
        return
    stored = await logs.load_archived(connection, [(one.key, one.start) for one in lot.repeated])
    for one in lot.repeated:
        before = stored.get((one.key, one.start))
        differs = (
            await logs.touches_archived(connection, one.key, one.start, one.end)
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


def _is_the_same(one: ReceivedBatch, before: ArchivedRange) -> bool:
    batch = one.batch
    return (before.end, before.bad_lines) == (one.end, batch.bad_lines) and (
        unpack_cells(before.cells) == cell_rows(batch.cells)
    )


def _learn(one: ReceivedBatch, states: dict[LogKey, LogState]) -> None:
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


def _previous(arrived: Iterable[ReceivedBatch]) -> set[LogKey]:
    return {
        LogKey(one.key.node, one.batch.previous.log)
        for one in arrived
        if one.batch.previous is not None
    }


def _archived(one: ReceivedBatch) -> ArchivedBatch:
    batch = one.batch
    minutes = [cell.minute for cell in batch.cells if abs(cell.minute) <= _LAST_MINUTE]
    return ArchivedBatch(
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
