"""Deliveries in batches: what arrived together is handled in one transaction, then acked.

A *delivery batch* is some deliveries of one pull; one of them may be a usage batch of a node, or a
single event. The failure policy is that of ``shared/messaging/consumer.py`` but for one thing:

- a transient fault pauses the consumer, which tries the whole batch again (``shared/retry.py``);
- poison becomes a dead letter;
- a message that fails for a fault of ours goes into quarantine, for it is usage or an owner that
  must still be counted (``usecases/quarantine.py``). Past the limit of the quarantine the consumer
  takes no more: readiness and ``edgetls_billing_quarantine_limit_reached`` show it, and nothing is
  acked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from services.billing.metrics import BATCH_AGE, COMMIT_SECONDS, QUARANTINE_LIMIT_REACHED
from services.billing.store.logs import BatchRefusal
from services.billing.usecases.ingest import IngestOutcome, UsageIngest
from services.billing.usecases.quarantine import (
    BatchHandler,
    Quarantine,
    QuarantineLimitReached,
)
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
from shared.retry import every, retry

log = structlog.get_logger()
MAX_BATCH_BYTES: Final = 4_000_000
"""Bodies in one transaction: about 40,000 cells, well under a second."""
_FORGOTTEN_SECONDS: Final = 3.0

RefusingHandler = Callable[[Sequence[Delivery]], Awaitable[list[tuple[Delivery, Poison]]]]
"""Handles deliveries, and returns those that must become dead letters with their reason."""


class BatchConsumer:
    """Gives the deliveries of a pull to ``handler``, in batches of at most MAX_BATCH_BYTES.

    ``concurrency``: the number of batches that are handled at once. With two this process reads
    the next one while PostgreSQL writes the last."""

    # How batches form, and why nothing is lost or counted twice:
    #   - A batch takes a slot before it is handled, and the next one is taken from the pull only
    #     when a slot is free. What arrives meanwhile waits in the pull and becomes one large batch.
    #     While no slot is free the pull asks for no more than it has room for, so memory stays flat
    #     when the database is slow.
    #   - While another batch is under way only a full one is taken (Pull.want): each batch locks
    #     the same accounts, so many small ones would wait for each other. With nothing under way a
    #     single delivery is taken at once.
    #   - A batch is acked only after its transaction is committed. Without an ack the stream
    #     delivers it again, and the handler counts it once all the same.
    #   - A batch that fails as a whole for a fault of ours was rolled back as a whole. Then each of
    #     its deliveries is handled alone, so that one of them that cannot be handled goes into
    #     quarantine and costs the others nothing.
    #   - A delivery in quarantine is stored there before it is acked.
    def __init__(
        self,
        pull: Pull,
        handler: BatchHandler,
        quarantine: Quarantine,
        health: Health,
        *,
        concurrency: int = 1,
    ) -> None:
        self._pull = pull
        self._handler = handler
        self._quarantine = quarantine
        self._health = health
        self._name = f"{pull.stream}/{pull.durable}"
        self._limit_reached = QUARANTINE_LIMIT_REACHED.labels(durable=pull.durable)
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way = 0

    async def run(self) -> None:
        """Take batches until cancelled."""
        async with asyncio.TaskGroup() as group:
            await self._slots.acquire()
            async for deliveries in self._pull.batches():
                for batch in split_batches(deliveries):
                    self._change_under_way(1)
                    group.create_task(self._settle_and_free_slot(batch))
                    # Before the next batch is taken from the pull.
                    await self._slots.acquire()

    async def _settle_and_free_slot(self, batch: Sequence[Delivery]) -> None:
        try:
            await self._settle(batch)
        finally:
            self._change_under_way(-1)
            self._slots.release()

    def _change_under_way(self, by: int) -> None:
        self._under_way += by
        self._pull.want(self._pull.batch if self._under_way else 1)

    async def _settle(self, batch: Sequence[Delivery]) -> None:
        """Return when each delivery is handled, or in quarantine, and acked."""
        handled = await retry(
            partial(self._handle, batch),
            health=self._health,
            condition=self._name,
            on_fault=self._show_limit,
        )
        self._limit_reached.set(0)
        if handled:
            await self._pull.ack_all(batch)
            return
        for delivery in batch:
            await self._settle([delivery])

    async def _handle(self, batch: Sequence[Delivery]) -> bool:
        """Handle a batch, or put its only delivery into quarantine.

        False when several deliveries failed together: the one at fault is not known then. Transient
        faults are raised, and so is QuarantineLimitReached."""
        try:
            with COMMIT_SECONDS.labels(durable=self._pull.durable).time():
                await self._handler(batch)
        except Exception as error:
            if is_transient(error):
                raise
            if len(batch) > 1:
                log.error(
                    "batch.failed",
                    consumer=self._name,
                    messages=len(batch),
                    error=describe(error),
                )
                return False
            await self._quarantine.add(self._pull.durable, batch[0], error)
        return True

    def _show_limit(self, error: Exception) -> None:
        if isinstance(error, QuarantineLimitReached):
            self._limit_reached.set(1)


def split_batches(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    """Split deliveries in order into batches of at most MAX_BATCH_BYTES, or of one delivery."""
    batch: list[Delivery] = []
    size = 0
    for delivery in deliveries:
        if batch and size + len(delivery.body) > MAX_BATCH_BYTES:
            yield batch
            batch = []
            size = 0
        batch.append(delivery)
        size += len(delivery.body)
    if batch:
        yield batch


class UsageBatchIntake:
    """Counts usage batches, confirms them to the nodes, and dead-letters each refused one once."""

    def __init__(
        self,
        ingest: UsageIngest,
        dead_letters: DeadLetters,
        publisher: Publisher,
        signer: Signer,
    ) -> None:
        self._ingest = ingest
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._signer = signer

    async def handle_batches(self, deliveries: Sequence[Delivery]) -> None:
        """Count usage batches, and tell the nodes how far their logs are in."""
        BATCH_AGE.set((datetime.now(UTC) - deliveries[0].stream_time).total_seconds())
        await self._follow_up(await self._ingest.ingest_batches(deliveries))

    async def count_held(self, node: str) -> None:
        """Count what waited for ``node`` to become known."""
        await self._follow_up(await self._ingest.ingest_held(node))

    async def dead_letter_forgotten(self, _fencing: int) -> None:
        """Write the dead letters that a process died before. Never returns.

        They are of batches that were held and then refused: no delivery brings them again."""

        async def dead_letter_all() -> None:
            for delivery, refusal in await self._ingest.load_forgotten():
                await self._dead_letter(delivery, refusal)

        await every(_FORGOTTEN_SECONDS, dead_letter_all)

    async def _follow_up(self, outcome: IngestOutcome) -> None:
        # All of it is after the commit and may be lost with the process. A node that gets no
        # confirmation sends its batch again, and a repetition is confirmed again. A dead letter has
        # the digest as its identity, and its refusal is marked only when the letter is stored: so
        # it is written at the next delivery, or by dead_letter_forgotten(), and is there once.
        for confirmation in outcome.confirmations:
            signed = self._signer.sign(Purpose.CONFIRMATION, confirmation)
            subject = catalogue.EDGE_CONFIRMED.for_node(confirmation.node)
            await self._publisher.publish_core(subject, signed.encode())
        for delivery, refusal in outcome.to_dead_letter:
            await self._dead_letter(delivery, refusal)

    async def _dead_letter(self, delivery: Delivery, refusal: BatchRefusal) -> None:
        await self._dead_letters.add(delivery, refusal.reason, identity=refusal.digest.hex())
        await self._ingest.mark_dead_lettered(refusal)


def with_dead_letters(handler: RefusingHandler, dead_letters: DeadLetters) -> BatchHandler:
    """Return a handler for a BatchConsumer: what ``handler`` returns becomes dead letters."""

    async def handle(deliveries: Sequence[Delivery]) -> None:
        refused = await handler(deliveries)
        await asyncio.gather(
            *(dead_letters.add(delivery, f"{error.reason}: {error}") for delivery, error in refused)
        )

    return handle


def replay_one(handler: RefusingHandler) -> Handler:
    """Return a handler of one delivery, for the replay of a dead letter: its fault is raised."""

    async def handle(delivery: Delivery) -> None:
        for _, error in await handler([delivery]):
            raise error

    return handle
