"""Single HTTPS request events in: each (source, id) counts once (rule E5); late and early ones by
rule E4."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from services.billing.domain.usage_aggregator import UsageAggregator, minute_fault, valid_domain
from services.billing.domain.wire_format import WireRequest, read_request, read_requests
from services.billing.metrics import REQUESTS
from services.billing.store import request_events as store
from services.billing.store import usage
from services.billing.store.partitions import RequestDays
from services.billing.store.request_events import Identity, RequestRow
from services.billing.usecases.accrue import accrue_usage
from services.billing.usecases.reference_cache import ReferenceCache
from shared.clock import Clock
from shared.errors import IdConflict, Malformed, Poison
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection, Pool

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = 60_000_000
_DAY: Final = 86_400_000_000
Refusals = list[tuple[Delivery, Poison]]
Conflicts = list[tuple[RequestRow, Delivery]]


@dataclass
class _RequestWrites:
    """What one transaction will write. ``again``: events whose identity another one of the lot has
    already."""

    rows: dict[Identity, tuple[RequestRow, Delivery]] = field(default_factory=dict)
    again: list[tuple[RequestRow, Delivery]] = field(default_factory=list)
    refused: Refusals = field(default_factory=list)


class RequestIngest:
    """``take`` commits the events that arrived together."""

    def __init__(self, pool: Pool, cache: ReferenceCache, days: RequestDays, clock: Clock) -> None:
        self._pool, self._cache, self._days, self._clock = pool, cache, days, clock

    async def take(self, messages: Sequence[Delivery]) -> Refusals:
        """What must become a dead letter, with its reason."""
        now = self._clock.now()
        lot = _read(messages, int(now.timestamp()) // 60)
        rows = sorted(row for row, _ in lot.rows.values())
        await self._days.ensure({row.day for row in rows})
        conflicts, new = await self._until_stored(lot, rows, now)
        lot.refused += [(message, _conflict(row)) for row, message in conflicts]
        _measure(len(messages), new, len(conflicts), len(lot.refused))
        return lot.refused

    async def _until_stored(
        self, lot: _RequestWrites, rows: list[RequestRow], now: datetime
    ) -> tuple[Conflicts, int]:
        """Again when another process was quicker with one of them: what that one committed is known
        then."""
        while True:
            with contextlib.suppress(store.StoredMeanwhile):
                return await self._store(lot, rows, now)

    async def _store(
        self, lot: _RequestWrites, rows: list[RequestRow], now: datetime
    ) -> tuple[Conflicts, int]:
        """The conflicts, and how many of ``rows`` are new: in one transaction."""
        async with self._pool.acquire() as connection, connection.transaction():
            today = int(now.timestamp()) // 86_400
            known = {row[:2]: row for row in await store.load_known(connection, rows, today)}
            new = [row for row in rows if row[:2] not in known] if known else rows
            await store.add_requests(connection, new, now)
            conflicts = _conflicts(lot, known)
            await store.keep_conflicts(
                connection,
                [(row[:2], sha256(m.body).digest(), m.body) for row, m in conflicts],
                now,
            )
            await self._count(connection, new, now)
        return conflicts, len(new)

    async def _count(
        self, connection: Connection, fresh: Sequence[RequestRow], now: datetime
    ) -> None:
        if not fresh:
            return
        await self._cache.open(connection)
        owners = await self._cache.owners(connection, {row.domain for row in fresh})
        tally = UsageAggregator()
        tally.add_requests(fresh, owners)
        await usage.add_minutes(connection, tally.minutes())
        await accrue_usage(connection, tally.accrued(), self._cache.terms(now))


def _read(messages: Sequence[Delivery], now_minute: int) -> _RequestWrites:
    lot = _RequestWrites()
    read = _all_good(messages, now_minute) or _one_by_one(messages, now_minute, lot.refused)
    for one in read:
        kept = lot.rows.setdefault(one[0][:2], one)
        if kept is not one:
            lot.again.append(one)
    return lot


def _all_good(
    messages: Sequence[Delivery], now_minute: int
) -> list[tuple[RequestRow, Delivery]] | None:
    """All at once, which costs half as much; None when there is one that cannot be counted."""
    requests = read_requests([message.body for message in messages])
    if requests is None:
        return None
    rows = [_row(request) for request in requests]
    times = [row.at for row in rows]
    if any(minute_fault(at // _MINUTE, now_minute) for at in (min(times), max(times))):
        return None
    if not all(valid_domain(domain) for domain in {row.domain for row in rows}):
        return None
    return list(zip(rows, messages, strict=True))


def _one_by_one(
    messages: Sequence[Delivery], now_minute: int, refused: Refusals
) -> list[tuple[RequestRow, Delivery]]:
    good = []
    for message in messages:
        try:
            row = _row(read_request(message.body))
            _check(row, now_minute)
        except Poison as error:
            refused.append((message, error))
        else:
            good.append((row, message))
    return good


def _row(request: WireRequest) -> RequestRow:
    at = (request.time - _EPOCH) // _MICROSECOND
    return RequestRow(
        request.source,
        request.id,
        at // _DAY,
        at,
        request.domain,
        request.node,
        request.bytes,
        request.status,
    )


def _check(row: RequestRow, now_minute: int) -> None:
    """Malformed for what cannot be counted: too far from now, or no valid domain."""
    fault = minute_fault(row.minute, now_minute)
    if fault is not None:
        raise Malformed(f"{fault}: an event counts up to 35 days late and 5 minutes early")
    if not valid_domain(row.domain):
        raise Malformed(
            "domain_invalid: the domain must be lower-case A-labels, as it was registered"
        )


def _conflicts(lot: _RequestWrites, known: dict[Identity, RequestRow]) -> Conflicts:
    """Events under a used identity with another content; a plain duplicate is only dropped."""
    found = [
        lot.rows[identity] for identity, stored in known.items() if lot.rows[identity][0] != stored
    ]
    for row, message in lot.again:
        if known.get(row[:2], lot.rows[row[:2]][0]) != row:
            found.append((row, message))
    return found


def _conflict(row: RequestRow) -> IdConflict:
    return IdConflict(
        f"event {row.id!r} of {row.source!r} was counted already with another content"
    )


def _measure(all_of_them: int, fresh: int, conflicts: int, poison: int) -> None:
    REQUESTS.labels(fate="count").inc(fresh)
    REQUESTS.labels(fate="conflict").inc(conflicts)
    REQUESTS.labels(fate="refused").inc(poison - conflicts)
    REQUESTS.labels(fate="duplicate").inc(all_of_them - fresh - poison)
