"""Single HTTPS request events in: each (source, id) counts once (rule E5); late and early ones by rule E4."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256

import msgspec

from services.billing.accruals import accrue
from services.billing.book import Book
from services.billing.cells import Tally, minute_fault, valid_domain
from services.billing.decode import Cell, Request, read_request
from services.billing.metrics import REQUESTS
from services.billing.store import requests as store
from services.billing.store import usage
from services.billing.store.requests import Identity, RequestRow
from shared.clock import Clock
from shared.errors import IdConflict, Malformed, Poison
from shared.messaging.cloudevents import Delivery
from shared.storage.pool import Connection, Pool

_encode = msgspec.json.Encoder()


class Requests:
    """``take`` commits the events that arrived together."""

    def __init__(self, pool: Pool, book: Book, clock: Clock) -> None:
        self._pool, self._book, self._clock = pool, book, clock

    async def take(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Poison]]:
        """What must become a dead letter, with its reason."""
        now = self._clock.now()
        poison: list[tuple[Delivery, Poison]] = []
        rows: dict[Identity, RequestRow] = {}
        bodies: list[tuple[Delivery, RequestRow]] = []
        for delivery in deliveries:
            try:
                row = _row(read_request(delivery.body), now)
            except Poison as error:
                poison.append((delivery, error))
                continue
            rows.setdefault((row.source, row.id), row)
            bodies.append((delivery, row))
        async with self._pool.acquire() as connection, connection.transaction():
            await self._book.open(connection)
            fresh = await store.add(connection, sorted(rows.values()), now)
            conflicts = await self._conflicts(connection, rows, fresh, bodies, now)
            await self._count(connection, [rows[identity] for identity in fresh], now)
        poison += conflicts
        _measure(len(deliveries), len(fresh), len(conflicts), len(poison))
        return poison

    async def _conflicts(
        self, connection: Connection, rows: dict[Identity, RequestRow], fresh: set[Identity],
        bodies: Sequence[tuple[Delivery, RequestRow]], now: datetime,
    ) -> list[tuple[Delivery, Poison]]:
        """Keeps what came under a used identity with another content; a plain duplicate is only dropped."""
        stored = await store.digests(connection, [identity for identity in rows if identity not in fresh])
        stored |= {identity: rows[identity].digest for identity in fresh}
        found: list[tuple[Delivery, Poison]] = []
        for delivery, row in bodies:
            identity = (row.source, row.id)
            if stored[identity] != row.digest:
                await store.keep_conflict(connection, identity, row.digest, delivery.body, now)
                text = f"event {row.id!r} of {row.source!r} was counted already with another content"
                found.append((delivery, IdConflict(text)))
        return found

    async def _count(self, connection: Connection, fresh: Sequence[RequestRow], now: datetime) -> None:
        if not fresh:
            return
        owners = await self._book.owners(connection, {row.domain for row in fresh})
        tally = Tally()
        for row in fresh:
            cell = Cell(row.domain, row.minute, https_requests=1, https_bytes=row.bytes)
            tally.add(row.node, [cell], owners, int(now.timestamp()) // 60)
        await usage.add(connection, tally.minutes())
        await accrue(connection, tally.accrued(), now)


def _row(request: Request, now: datetime) -> RequestRow:
    """Malformed when it cannot be counted: no valid domain, or too far from now."""
    at = request.time.astimezone(UTC)
    minute = int(at.timestamp() // 60)
    if not valid_domain(request.domain):
        raise Malformed("domain_invalid: the domain must be lower-case A-labels, as it was registered")
    fault = minute_fault(minute, int(now.timestamp()) // 60)
    if fault is not None:
        raise Malformed(f"{fault}: an event counts up to 35 days late and 5 minutes early")
    content = _encode.encode(msgspec.structs.replace(request, time=at))
    return RequestRow(
        request.source, request.id, sha256(content).digest(), request.domain, request.node, minute, request.bytes
    )


def _measure(all_of_them: int, fresh: int, conflicts: int, poison: int) -> None:
    REQUESTS.labels(fate="count").inc(fresh)
    REQUESTS.labels(fate="conflict").inc(conflicts)
    REQUESTS.labels(fate="refused").inc(poison - conflicts)
    REQUESTS.labels(fate="duplicate").inc(all_of_them - fresh - poison)
