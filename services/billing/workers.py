"""Between JetStream and the use cases: what arrived together is committed together, then acked.

A transient fault pauses the whole lot. Any other fault is looked for one message at a time, so that one bad message
costs itself and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from services.billing.ingest import Ingest, Taken
from services.billing.metrics import BATCH_AGE, COMMIT_SECONDS
from services.billing.store import logs, partitions
from services.billing.usecases import Money
from shared import subjects
from shared.clock import Clock
from shared.crypto.signing import Purpose, Signer
from shared.errors import Poison
from shared.messaging.cloudevents import Delivery
from shared.messaging.failures import DeadLetters, describe, passes
from shared.messaging.publish import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.storage.pool import Pool

log = structlog.get_logger()
MOST_BYTES = 4_000_000
"""Bodies in one transaction: about 40,000 cells, well under a second."""
Take = Callable[[Sequence[Delivery]], Awaitable[None]]


class LotConsumer:
    """Gives ``take`` what a pull delivered, in lots of at most MOST_BYTES; acks a lot when ``take`` returns."""

    def __init__(self, pull: Pull, take: Take, dead: DeadLetters, health: Health) -> None:
        self._pull, self._take, self._dead, self._health = pull, take, dead, health
        self._name = f"{pull.stream}/{pull.durable}"

    async def run(self) -> None:
        async for deliveries in self._pull.batches():
            for lot in in_lots(deliveries):
                await self._settle(lot)

    async def _settle(self, lot: Sequence[Delivery]) -> None:
        delay = 0.1
        while True:
            try:
                with COMMIT_SECONDS.labels(durable=self._pull.durable).time():
                    await self._take(lot)
                break
            except Exception as error:
                if not passes(error):
                    await self._one_by_one(lot, error)
                    return
                self._health.not_ready(self._name, describe(error))
                log.warning("consumer.paused", consumer=self._name, error=describe(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
        for delivery in lot:
            await self._pull.ack(delivery)
        self._health.ready(self._name)

    async def _one_by_one(self, lot: Sequence[Delivery], error: Exception) -> None:
        log.error("lot.failed", consumer=self._name, messages=len(lot), error=describe(error))
        if len(lot) > 1:
            for delivery in lot:
                await self._settle([delivery])
            return
        await self._dead.bury(lot[0], f"unexpected: {type(error).__name__}")
        await self._pull.ack(lot[0])


def in_lots(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    """In order; each of at most MOST_BYTES, or of one delivery."""
    lot: list[Delivery] = []
    size = 0
    for delivery in deliveries:
        if lot and size + len(delivery.body) > MOST_BYTES:
            yield lot
            lot, size = [], 0
        lot.append(delivery)
        size += len(delivery.body)
    if lot:
        yield lot


class BatchTaker:
    """Commits usage batches, buries what was refused (once), tells the nodes how far their logs are in."""

    def __init__(
        self, ingest: Ingest, pool: Pool, dead: DeadLetters, publisher: Publisher, signer: Signer
    ) -> None:
        self._ingest, self._pool, self._dead = ingest, pool, dead
        self._publisher, self._signer = publisher, signer

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        BATCH_AGE.set((datetime.now(UTC) - deliveries[0].stream_time).total_seconds())
        await self._tell(await self._ingest.take(deliveries))

    async def drain(self, node: str) -> None:
        """The node is known now: what waited for that is counted."""
        await self._tell(await self._ingest.drain(node))

    async def _tell(self, taken: Taken) -> None:
        for confirmation in taken.confirmations:
            signed = self._signer.sign(Purpose.CONFIRMATION, confirmation)
            await self._publisher.tell(subjects.edge_confirmed(confirmation.node), signed.encode())
        for delivery, refusal in taken.unburied:
            await self._dead.bury(delivery, refusal.reason)
            async with self._pool.acquire() as connection:
                await logs.buried(connection, refusal.node, refusal.digest)


def burying(
    take: Callable[[Sequence[Delivery]], Awaitable[list[tuple[Delivery, Poison]]]], dead: DeadLetters
) -> Take:
    """``take`` for a LotConsumer: what it gives back becomes dead letters."""

    async def take_and_bury(deliveries: Sequence[Delivery]) -> None:
        for delivery, error in await take(deliveries):
            await dead.bury(delivery, f"{error.reason}: {error}")

    return take_and_bury


class HourClock:
    """Closes each hour ``grace`` after its end; one at a time, by lease."""

    def __init__(self, money: Money, pool: Pool, clock: Clock, grace: timedelta) -> None:
        self._money, self._pool, self._clock, self._grace = money, pool, clock, grace

    async def run(self, fencing: int) -> None:
        closed: datetime | None = None
        while True:
            now = self._clock.now()
            until = (now - self._grace).replace(minute=0, second=0, microsecond=0)
            if closed is None or until > closed:
                lines = await self._money.close(until)
                async with self._pool.acquire() as connection, connection.transaction():
                    dropped = await partitions.drop_old(connection, now)
                log.info("hour.closed", until=until.isoformat(), lines=lines, dropped=dropped, fencing=fencing)
                closed = until
            await asyncio.sleep(1)
