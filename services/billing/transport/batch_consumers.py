"""Between JetStream and the use cases: what arrived together is committed together, then acked.

A transient fault pauses the whole lot. Any other fault is looked for one message at a time, so that
one message that cannot be handled is parked and costs the others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime

import structlog

from services.billing.metrics import BATCH_AGE, COMMIT_SECONDS
from services.billing.store import logs
from services.billing.usecases.ingest import IngestOutcome, UsageIngest
from services.billing.usecases.quarantine import BatchHandler, Quarantine
from shared import catalogue
from shared.crypto.signing import Purpose, Signer
from shared.errors import Poison
from shared.faults import describe, is_transient
from shared.messaging.consumer import Handler
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.storage.pool import Pool

log = structlog.get_logger()
MAX_BATCH_BYTES = 4_000_000
"""Bodies in one transaction: about 40,000 cells, well under a second."""


RefusingHandler = Callable[[Sequence[Delivery]], Awaitable[list[tuple[Delivery, Poison]]]]
"""Gives back what must become a dead letter, with its reason."""


class BatchConsumer:
    """Gives ``take`` what a pull delivered, in lots of at most MOST_BYTES; acks a lot when ``take``
    returns.

    ``lots``: how many may be on their way to the database at once. Two let this process read the
    next one while PostgreSQL writes the last; the pull asks for no more meanwhile, so memory stays
    flat when the database is slow. What comes alone goes at once; beside another lot only a large
    one, for each locks the same accounts."""

    def __init__(
        self, pull: Pull, take: BatchHandler, parking: Quarantine, health: Health, *, lots: int = 1
    ) -> None:
        self._pull, self._take, self._parking, self._health = pull, take, parking, health
        self._name = f"{pull.stream}/{pull.durable}"
        self._slots, self._under_way = asyncio.Semaphore(lots), 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            await self._slots.acquire()
            async for messages in self._pull.batches():
                for lot in split_batches(messages):
                    self._count(1)
                    group.create_task(self._settle_and_free(lot))
                    # Before the next lot is taken from the pull: what waits there meanwhile becomes
                    # one large lot.
                    await self._slots.acquire()

    async def _settle_and_free(self, lot: Sequence[Delivery]) -> None:
        try:
            await self._settle(lot)
        finally:
            self._count(-1)
            self._slots.release()

    def _count(self, lots: int) -> None:
        self._under_way += lots
        self._pull.want(self._pull.batch if self._under_way else 1)

    async def _settle(self, lot: Sequence[Delivery]) -> None:
        """Returns when each of them is handled, or parked, and acked."""
        delay = 0.1
        while True:
            try:
                if not await self._taken(lot):
                    for message in lot:
                        await self._settle([message])
                    return
                break
            except Exception as error:
                if not is_transient(error):
                    raise
                self._health.not_ready(self._name, describe(error))
                log.warning("consumer.paused", consumer=self._name, error=describe(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
        await self._pull.ack_all(lot)
        self._health.ready(self._name)

    async def _taken(self, lot: Sequence[Delivery]) -> bool:
        """Whether the lot can be acked. Not when several failed together: which of them is at fault
        is looked for."""
        try:
            with COMMIT_SECONDS.labels(durable=self._pull.durable).time():
                await self._take(lot)
        except Exception as error:
            if is_transient(error):
                raise
            if len(lot) > 1:
                log.error(
                    "lot.failed", consumer=self._name, messages=len(lot), error=describe(error)
                )
                return False
            await self._parking.park(self._pull.durable, lot[0], error)
        return True


def split_batches(messages: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    """In order; each of at most MOST_BYTES, or of one message."""
    lot: list[Delivery] = []
    size = 0
    for message in messages:
        if lot and size + len(message.body) > MAX_BATCH_BYTES:
            yield lot
            lot, size = [], 0
        lot.append(message)
        size += len(message.body)
    if lot:
        yield lot


class UsageBatchIntake:
    """Commits usage batches, buries what was refused (once), tells the nodes how far their logs are
    in."""

    def __init__(
        self,
        ingest: UsageIngest,
        pool: Pool,
        dead: DeadLetters,
        publisher: Publisher,
        signer: Signer,
    ) -> None:
        self._ingest, self._pool, self._dead = ingest, pool, dead
        self._publisher, self._signer = publisher, signer

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        BATCH_AGE.set((datetime.now(UTC) - deliveries[0].stream_time).total_seconds())
        await self._tell(await self._ingest.take(deliveries))

    async def drain(self, node: str) -> None:
        """The node is known now: what waited for that is counted."""
        await self._tell(await self._ingest.drain(node))

    async def bury_forgotten(self, _fencing: int) -> None:
        """Whoever died between refusing a batch that had waited and burying it left it to be found
        here."""
        while True:
            async with self._pool.acquire() as connection:
                forgotten = await logs.load_forgotten_refusals(connection)
            for delivery, refusal in forgotten:
                await self._bury(delivery, refusal)
            await asyncio.sleep(3)

    async def _tell(self, taken: IngestOutcome) -> None:
        for confirmation in taken.confirmations:
            signed = self._signer.sign(Purpose.CONFIRMATION, confirmation)
            await self._publisher.publish_core(
                catalogue.EDGE_CONFIRMED.for_node(confirmation.node), signed.encode()
            )
        for delivery, refusal in taken.unburied:
            await self._bury(delivery, refusal)

    async def _bury(self, delivery: Delivery, refusal: logs.BatchRefusal) -> None:
        await self._dead.add(delivery, refusal.reason, identity=refusal.digest.hex())
        async with self._pool.acquire() as connection:
            await logs.mark_dead_lettered(connection, refusal.node, refusal.digest)


def with_dead_letters(take: RefusingHandler, dead: DeadLetters) -> BatchHandler:
    """``take`` for a LotConsumer: what it gives back becomes dead letters."""

    async def take_and_bury(deliveries: Sequence[Delivery]) -> None:
        refused = await take(deliveries)
        await asyncio.gather(
            *(dead.add(delivery, f"{error.reason}: {error}") for delivery, error in refused)
        )

    return take_and_bury


def replay_one(take: RefusingHandler) -> Handler:
    """The same of one delivery, for whoever replays it: its fault is raised."""

    async def handle(delivery: Delivery) -> None:
        for _, error in await take([delivery]):
            raise error

    return handle
