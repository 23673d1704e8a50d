"""Single HTTPS request events in: each (source, id) counts once (rule E5).

Events that are too late or too early are refused (rule E4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Final

from services.billing.domain.units import EPOCH, UnixMinute, day_of, minute_of
from services.billing.domain.usage_aggregator import (
    MICROSECONDS_A_MINUTE,
    RequestRow,
    UsageAggregator,
    minute_fault,
    valid_domain,
)
from services.billing.domain.wire_format import WireRequest, read_request, read_requests
from services.billing.metrics import REQUESTS
from services.billing.store import request_events as store
from services.billing.store import usage
from services.billing.store.partitions import RequestDays
from services.billing.store.request_events import Identity, StoredMeanwhile
from services.billing.usecases.accrue import accrue_usage
from services.billing.usecases.reference_cache import ReferenceCache
from shared.clock import Clock
from shared.errors import IdConflict, Malformed, Poison
from shared.messaging.delivery import Delivery
from shared.retry import retry
from shared.storage.pool import Connection, Pool

_MICROSECOND: Final = timedelta(microseconds=1)
_MICROSECONDS_A_DAY: Final = 86_400_000_000
ReceivedEvent = tuple[RequestRow, Delivery]


@dataclass
class _RequestWrites:
    """Everything that one transaction will write.

    ``again``: events with the identity of another one in ``events``. ``refused``: events that must
    become dead letters, with their reason."""

    events: dict[Identity, ReceivedEvent] = field(default_factory=dict)
    again: list[ReceivedEvent] = field(default_factory=list)
    refused: list[tuple[Delivery, Poison]] = field(default_factory=list)


class RequestIngest:
    """Counts single events, those that arrived together in one transaction."""

    def __init__(self, pool: Pool, cache: ReferenceCache, days: RequestDays, clock: Clock) -> None:
        self._pool = pool
        self._cache = cache
        self._days = days
        self._clock = clock

    async def ingest_events(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Poison]]:
        """Store, add up and accrue events. Return those that must become dead letters."""
        now = self._clock.now()
        writes = _read_events(deliveries, minute_of(now))
        rows = sorted(row for row, _ in writes.events.values())
        await self._days.ensure({row.day for row in rows})
        # Another process may be quicker with one of them. Its transaction has ended then, so the
        # next attempt, at once, finds what it has stored.
        conflicts, counted = await retry(
            partial(self._store, writes, rows, now),
            retry_on=lambda error: isinstance(error, StoredMeanwhile),
            first_delay=0,
        )
        for row, delivery in conflicts:
            writes.refused.append((delivery, _id_conflict(row)))
        REQUESTS.labels(fate="count").inc(counted)
        REQUESTS.labels(fate="conflict").inc(len(conflicts))
        REQUESTS.labels(fate="refused").inc(len(writes.refused) - len(conflicts))
        REQUESTS.labels(fate="duplicate").inc(len(deliveries) - counted - len(writes.refused))
        return writes.refused

    async def _store(
        self, writes: _RequestWrites, rows: list[RequestRow], now: datetime
    ) -> tuple[list[ReceivedEvent], int]:
        """Write everything in one transaction. Return the conflicts and the number of new rows."""
        # An identity is stored and its request is added up in the same transaction, so it counts
        # once however often it is delivered, also after a crash between commit and ack.
        #   - Within these events: a dictionary by identity; the first one stands.
        #   - Against stored ones: one look-up over every day that a late event can be of. The
        #     primary key has the day too, for it is the partition; the same id on another day is
        #     the same identity all the same.
        #   - Against another process that stores it now: COPY waits for that transaction and then
        #     fails by the primary key (StoredMeanwhile). Two copies with different days do not
        #     meet there: the audit finds such a pair (store/audit.py, find_double_counts).
        async with self._pool.acquire() as connection, connection.transaction():
            known = {row[:2]: row for row in await store.load_known(connection, rows, day_of(now))}
            new = rows
            if known:
                new = [row for row in rows if row[:2] not in known]
            await store.add_requests(connection, new, now)
            conflicts = _find_conflicts(writes, known)
            kept = []
            for row, delivery in conflicts:
                kept.append((row[:2], sha256(delivery.body).digest(), delivery.body))
            await store.keep_conflicts(connection, kept, now)
            await self._count(connection, new, now)
        return conflicts, len(new)

    async def _count(
        self, connection: Connection, rows: Sequence[RequestRow], now: datetime
    ) -> None:
        if not rows:
            return
        await self._cache.refresh(connection)
        owners = await self._cache.load_owners(connection, {row.domain for row in rows})
        aggregator = UsageAggregator()
        aggregator.add_requests(rows, owners)
        await usage.add_minutes(connection, aggregator.minute_rows())
        await accrue_usage(connection, aggregator.accrued_requests(), self._cache.pricing_at(now))


def _read_events(deliveries: Sequence[Delivery], now_minute: UnixMinute) -> _RequestWrites:
    writes = _RequestWrites()
    events = _read_together(deliveries, now_minute)
    if events is None:
        events = _read_each(deliveries, now_minute, writes.refused)
    for event in events:
        first = writes.events.setdefault(event[0][:2], event)
        if first is not event:
            writes.again.append(event)
    return writes


def _read_together(
    deliveries: Sequence[Delivery], now_minute: UnixMinute
) -> list[ReceivedEvent] | None:
    """Read all at once, which costs half as much as one by one.

    None when one of them cannot be counted."""
    requests = read_requests([delivery.body for delivery in deliveries])
    if requests is None:
        return None
    rows = [_request_row(request) for request in requests]
    times = [row.at for row in rows]
    for at in (min(times), max(times)):
        if minute_fault(UnixMinute(at // MICROSECONDS_A_MINUTE), now_minute):
            return None
    if not all(valid_domain(domain) for domain in {row.domain for row in rows}):
        return None
    return list(zip(rows, deliveries, strict=True))


def _read_each(
    deliveries: Sequence[Delivery],
    now_minute: UnixMinute,
    refused: list[tuple[Delivery, Poison]],
) -> list[ReceivedEvent]:
    events = []
    for delivery in deliveries:
        try:
            row = _request_row(read_request(delivery.body))
            _check_row(row, now_minute)
        except Poison as error:
            refused.append((delivery, error))
        else:
            events.append((row, delivery))
    return events


def _request_row(request: WireRequest) -> RequestRow:
    # Called for every event. tuple.__new__ and a plain number instead of RequestRow(...) and
    # UnixDay(...) save half a microsecond of the eighteen that an event costs.
    at = (request.time - EPOCH) // _MICROSECOND
    columns = (
        request.source,
        request.id,
        at // _MICROSECONDS_A_DAY,
        at,
        request.domain,
        request.node,
        request.bytes,
        request.status,
    )
    return tuple.__new__(RequestRow, columns)


def _check_row(row: RequestRow, now_minute: UnixMinute) -> None:
    """Raise Malformed for an event that cannot be counted."""
    fault = minute_fault(row.minute, now_minute)
    if fault is not None:
        raise Malformed(f"{fault}: an event counts up to 35 days late and 5 minutes early")
    if not valid_domain(row.domain):
        raise Malformed(
            "domain_invalid: the domain must be lower-case A-labels, as it was registered"
        )


def _find_conflicts(
    writes: _RequestWrites, known: Mapping[Identity, RequestRow]
) -> list[ReceivedEvent]:
    """Return events with a used identity and another content. A plain duplicate is only dropped."""
    conflicts = []
    for identity, stored in known.items():
        event = writes.events[identity]
        if event[0] != stored:
            conflicts.append(event)
    for row, delivery in writes.again:
        counted = known.get(row[:2], writes.events[row[:2]][0])
        if counted != row:
            conflicts.append((row, delivery))
    return conflicts


def _id_conflict(row: RequestRow) -> IdConflict:
    return IdConflict(
        f"event {row.id!r} of {row.source!r} was counted already with another content"
    )
