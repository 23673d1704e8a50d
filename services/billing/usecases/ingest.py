"""Usage batches in: many in one transaction, each byte range counted exactly once (rule E5).

Which range is accepted: ``domain/ranges.py``. A batch that waits for an earlier range, or for its
node to become known, is held in the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

from services.billing.domain import ranges
from services.billing.domain.units import minute_of
from services.billing.domain.usage_aggregator import UsageAggregator
from services.billing.domain.wire_format import (
    WireBatch,
    WireCell,
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
"""The largest minute that a column of the archive can hold."""


@dataclass(frozen=True)
class ReceivedBatch:
    """A readable batch: just delivered, or held since then (``delivery`` is None)."""

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

    def as_held(self) -> HeldBatch:
        return HeldBatch(self.key, self.start, self.end, self.body)


@dataclass
class IngestOutcome:
    """The work that is left after the commit.

    ``confirmations``: one for each log, at its stored end. ``to_dead_letter``: batches that were
    refused and have no dead letter yet."""

    confirmations: list[Confirmation] = field(default_factory=list)
    to_dead_letter: list[tuple[Delivery, BatchRefusal]] = field(default_factory=list)


@dataclass
class _IngestWrites:
    """Everything that one transaction will write.

    ``repeated``: ranges that came before. ``confirmed``: logs to confirm. ``bodies``, by digest: of
    refused batches that were held, so that no delivery has them."""

    now: datetime
    aggregator: UsageAggregator = field(default_factory=UsageAggregator)
    accepted: list[ReceivedBatch] = field(default_factory=list)
    repeated: list[ReceivedBatch] = field(default_factory=list)
    to_hold: list[HeldBatch] = field(default_factory=list)
    to_release: list[HeldBatch] = field(default_factory=list)
    refused: list[tuple[Delivery | None, BatchRefusal]] = field(default_factory=list)
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    confirmed: set[LogKey] = field(default_factory=set)

    def refuse(self, one: ReceivedBatch, reason: str, stored_to: int) -> None:
        digest = _digest(one.body)
        refusal = BatchRefusal(
            node=one.key.node,
            digest=digest,
            reason=reason,
            log=one.key.log,
            start=one.start,
            end=one.end,
            stored_to=stored_to,
        )
        if one.delivery is None:
            self.bodies[digest] = one.body
        self.refused.append((one.delivery, refusal))


class UsageIngest:
    """Counts usage batches, and those that waited for their node to become known."""

    def __init__(
        self, pool: Pool, cache: ReferenceCache, months: ArchiveMonths, clock: Clock
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._months = months
        self._clock = clock

    async def ingest_batches(self, deliveries: Sequence[Delivery]) -> IngestOutcome:
        """Archive, add up and accrue batches that arrived together, in one transaction."""
        writes = _IngestWrites(self._clock.now())
        received = []
        for delivery in deliveries:
            one = _read_delivery(delivery, writes)
            if one is not None:
                received.append(one)
        await self._months.ensure(writes.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._cache.refresh(connection)
            nodes = {one.key.node for one in received}
            known_nodes = await self._cache.find_known_nodes(connection, nodes)
            of_known_nodes = []
            of_unknown_nodes = []
            for one in received:
                if one.key.node in known_nodes:
                    of_known_nodes.append(one)
                else:
                    of_unknown_nodes.append(one.as_held())
            BATCHES.labels(fate="unknown_node").inc(len(of_unknown_nodes))
            await logs.hold_batches(connection, of_unknown_nodes, writes.now)
            return await self._commit(connection, of_known_nodes, writes)

    async def ingest_held(self, node: str) -> IngestOutcome:
        """Count the batches that waited for ``node``, if it is known now."""
        writes = _IngestWrites(self._clock.now())
        await self._months.ensure(writes.now)
        async with self._pool.acquire() as connection, connection.transaction():
            await self._cache.refresh(connection)
            if not await self._cache.find_known_nodes(connection, {node}):
                return IngestOutcome()
            waiting = await logs.find_waiting_logs(connection, node)
            return await self._commit(connection, [], writes, waiting)

    async def load_forgotten(self) -> list[tuple[Delivery, BatchRefusal]]:
        """Return batches that were refused after they had waited, and that have no dead letter."""
        return await logs.load_forgotten_refusals(self._pool)

    async def mark_dead_lettered(self, refusal: BatchRefusal) -> None:
        """Record that a refused batch has its dead letter."""
        await logs.mark_dead_lettered(self._pool, refusal.node, refusal.digest)

    async def _commit(
        self,
        connection: Connection,
        received: Sequence[ReceivedBatch],
        writes: _IngestWrites,
        waiting: Iterable[LogKey] = (),
    ) -> IngestOutcome:
        """Decide about batches under the locks of their logs, and write everything.

        ``waiting``: logs with held batches to look at though nothing arrived for them."""
        by_log: dict[LogKey, list[ReceivedBatch]] = {key: [] for key in waiting}
        for one in received:
            by_log.setdefault(one.key, []).append(one)
        states: dict[LogKey, LogState] = {}
        if by_log:
            # From here to the commit no other transaction decides about these logs. One that has
            # batches of the same log waits here, and then sees the stored end and the held batches
            # that this one leaves. So a held range is counted by the transaction that commits the
            # range before it, whichever process that is, and never by two.
            # The logs that batches name as their previous ones are locked too: their final length
            # is written here. All locks are taken in order of (node, log).
            keys = {*by_log, *_previous_logs(received)}
            states = await logs.lock_logs(connection, keys, writes.now)
            held = await _load_held(connection, by_log)
            for batches in (received, *held.values()):
                for one in batches:
                    _note_lengths(one, states)
            for key, batches in by_log.items():
                _place_batches(key, held[key], batches, states[key], writes)
            await self._write(connection, writes, states)
            await _refuse_conflicts(connection, writes, states)
        refusals = [refusal for _, refusal in writes.refused]
        without_letter = await logs.record_refusals(connection, refusals, writes.bodies, writes.now)
        return _ingest_outcome(writes, states, without_letter)

    async def _write(
        self, connection: Connection, writes: _IngestWrites, states: Mapping[LogKey, LogState]
    ) -> None:
        # In one transaction: what is archived is what is counted, so that an audit can recompute
        # it; and the stored end moves with it, so that a batch that comes again is a repetition.
        # Usage and accounts are written last: their locks are shared with all other transactions.
        diverted = await self._add_up(connection, writes)
        await logs.save_logs(connection, states, writes.now)
        await logs.release_batches(connection, writes.to_release)
        await logs.hold_batches(connection, writes.to_hold, writes.now)
        archived = [_archived_batch(one) for one in writes.accepted if one.start < one.end]
        await logs.archive_batches(connection, archived, writes.now)
        await logs.divert_cells(connection, diverted, writes.now)
        await usage.add_minutes(connection, writes.aggregator.minute_rows())
        pricing = self._cache.pricing_at(writes.now)
        await accrue_usage(connection, writes.aggregator.accrued_requests(), pricing)
        CELLS.inc(sum(len(one.batch.cells) for one in writes.accepted) - len(diverted))
        BAD_LINES.inc(sum(one.batch.bad_lines for one in writes.accepted))

    async def _add_up(self, connection: Connection, writes: _IngestWrites) -> list[DivertedCell]:
        """Add the cells of accepted batches; return those that cannot be counted."""
        domains = {cell.domain for one in writes.accepted for cell in one.batch.cells}
        owners = await self._cache.load_owners(connection, domains)
        now_minute = minute_of(writes.now)
        diverted: list[DivertedCell] = []
        for one in writes.accepted:
            for cell, reason in writes.aggregator.add_cells(
                one.key.node, one.batch.cells, owners, now_minute
            ):
                DIVERTED.labels(reason=reason).inc()
                diverted.append(_diverted_cell(one, cell, reason))
        return diverted


def _read_delivery(delivery: Delivery, writes: _IngestWrites) -> ReceivedBatch | None:
    """Read a batch. Refuse it, and return None, when it is malformed or another node's."""
    node = delivery.subject.rpartition(".")[2]
    try:
        batch = read_batch(delivery.body)
        if batch.node != node:
            raise Malformed(f"sent by node {node} for another one")
    except Malformed as error:
        BATCHES.labels(fate="malformed").inc()
        refusal = BatchRefusal(node, _digest(delivery.body), f"{error.reason}: {error}")
        writes.refused.append((delivery, refusal))
        return None
    return ReceivedBatch(LogKey(batch.node, batch.log), batch, delivery.body, delivery)


async def _load_held(
    connection: Connection, keys: Iterable[LogKey]
) -> dict[LogKey, list[ReceivedBatch]]:
    held: dict[LogKey, list[ReceivedBatch]] = defaultdict(list)
    for row in await logs.load_held(connection, keys):
        held[row.key].append(ReceivedBatch(row.key, read_batch(row.body), row.body))
    return held


def _place_batches(
    key: LogKey,
    held: Sequence[ReceivedBatch],
    received: Sequence[ReceivedBatch],
    state: LogState,
    writes: _IngestWrites,
) -> None:
    """Decide about the ranges of one log, and move its state.

    Held ones go first: of two with the same start the first one is accepted."""
    placement = ranges.place_ranges(state.stored_to, (*held, *received), state.final_length)
    state.stored_to = placement.stored_to
    state.read_to = max(state.read_to, state.stored_to)
    for one in placement.accepted:
        state.bad_lines += one.batch.bad_lines
    writes.accepted += placement.accepted
    writes.repeated += [one for one in placement.repeated if one.start < one.end]
    for one, fate in placement.refused:
        writes.refuse(one, fate.value, placement.stored_to)
        BATCHES.labels(fate=fate.value).inc()
    still_held = {id(one) for one in placement.held}
    for one in held:
        if id(one) not in still_held:
            writes.to_release.append(one.as_held())
    for one in placement.held:
        if one.delivery is not None and one.start < one.end:
            writes.to_hold.append(one.as_held())
    if placement.accepted or placement.repeated or placement.refused:
        writes.confirmed.add(key)
    BATCHES.labels(fate="accept").inc(len(placement.accepted))
    BATCHES.labels(fate="repeat").inc(len(placement.repeated))
    BATCHES.labels(fate="hold").inc(len(placement.held))


async def _refuse_conflicts(
    connection: Connection, writes: _IngestWrites, states: Mapping[LogKey, LogState]
) -> None:
    """Refuse repeated ranges that have another content than what was counted.

    A plain repetition is only dropped. When a node's disk is put back to an earlier state, the node
    writes other requests to places of its log that were read before: an operator must learn of
    that."""
    if not writes.repeated:
        return
    starts = [(one.key, one.start) for one in writes.repeated]
    archived = await logs.load_archived(connection, starts)
    for one in writes.repeated:
        before = archived.get((one.key, one.start))
        if before is None:
            differs = await logs.touches_archived(connection, one.key, one.start, one.end)
        else:
            differs = not _has_same_content(one, before)
        if differs:
            BATCHES.labels(fate="conflict").inc()
            reason = "conflict: the range was counted with another content"
            writes.refuse(one, reason, states[one.key].stored_to)


def _has_same_content(one: ReceivedBatch, before: ArchivedRange) -> bool:
    if before.end != one.end or before.bad_lines != one.batch.bad_lines:
        return False
    return unpack_cells(before.cells) == cell_rows(one.batch.cells)


def _note_lengths(one: ReceivedBatch, states: Mapping[LogKey, LogState]) -> None:
    """Note how far the node has read its log, and the length of a log that it has closed.

    This holds for refused batches too."""
    batch = one.batch
    state = states[one.key]
    state.read_to = max(state.read_to, batch.read_to)
    if batch.final:
        _note_final_length(state, batch.end)
    if batch.previous is not None and batch.previous.log != one.key.log:
        # A batch that waited for its node may name a log that is not locked here: the node's next
        # batch names it again.
        previous = states.get(LogKey(one.key.node, batch.previous.log))
        if previous is not None:
            _note_final_length(previous, batch.previous.length)


def _note_final_length(state: LogState, length: int) -> None:
    """The first final length of a log stands."""
    if state.final_length is None and length >= state.stored_to:
        state.final_length = length


def _previous_logs(received: Iterable[ReceivedBatch]) -> set[LogKey]:
    """Return the logs that batches name as the ones before theirs."""
    keys = set()
    for one in received:
        if one.batch.previous is not None:
            keys.add(LogKey(one.key.node, one.batch.previous.log))
    return keys


def _archived_batch(one: ReceivedBatch) -> ArchivedBatch:
    batch = one.batch
    minutes = [cell.minute for cell in batch.cells if abs(cell.minute) <= _LAST_MINUTE]
    return ArchivedBatch(
        node=one.key.node,
        log=one.key.log,
        start_at=one.start,
        end_at=one.end,
        read_to=batch.read_to,
        bad_lines=batch.bad_lines,
        cell_count=len(batch.cells),
        cells=pack_cells(batch.cells),
        first_minute=min(minutes, default=None),
        last_minute=max(minutes, default=None),
    )


def _diverted_cell(one: ReceivedBatch, cell: WireCell, reason: str) -> DivertedCell:
    return DivertedCell(
        key=one.key,
        start=one.start,
        end=one.end,
        reason=reason,
        domain=cell.domain.encode("unicode_escape").decode(),
        minute=cell.minute,
        counts=(cell.https_requests, cell.https_bytes, cell.http_requests, cell.http_bytes),
    )


def _ingest_outcome(
    writes: _IngestWrites, states: Mapping[LogKey, LogState], without_letter: set[bytes]
) -> IngestOutcome:
    outcome = IngestOutcome()
    for key in sorted(writes.confirmed):
        confirmation = Confirmation(node=key.node, log=key.log, end=states[key].stored_to)
        outcome.confirmations.append(confirmation)
    once: dict[bytes, tuple[Delivery, BatchRefusal]] = {}
    for delivery, refusal in writes.refused:
        if refusal.digest not in without_letter:
            continue
        if delivery is None:
            body = writes.bodies[refusal.digest]
            delivery = logs.rebuild_delivery(refusal.node, body, writes.now)
        once[refusal.digest] = (delivery, refusal)
    outcome.to_dead_letter = list(once.values())
    return outcome


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
