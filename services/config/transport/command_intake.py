"""Commands from their stream into the inbox: stored in batches, then acked; poison to DEAD."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from nats.aio.client import Client

from services.config.domain import command_parser
from services.config.domain.key_redaction import without_keys
from shared.errors import BrokerAway, Malformed
from shared.faults import describe, is_transient
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.storage.inbox import Arrival, Inbox

log = structlog.get_logger()
GAP_SECONDS = 0.5


class Intake:
    """``wake`` is set when something new may run."""

    def __init__(
        self,
        client: Client,
        pull: Pull,
        inbox: Inbox,
        dead: DeadLetters,
        health: Health,
        wake: asyncio.Event,
    ) -> None:
        self._js = client.jetstream(timeout=5)
        self._pull, self._inbox, self._dead, self._health, self._wake = (
            pull,
            inbox,
            dead,
            health,
            wake,
        )
        self._condition = f"{pull.stream}/{pull.durable}"
        self._incarnations: list[datetime] = []
        self._publisher, self._stray = Publisher(client), set[int]()

    async def run(self) -> None:
        async for batch in self._pull.batches():
            await self._take([self._clean(delivery) for delivery in batch])

    async def watch_gaps(self) -> None:
        """A sequence below the ack floor that is not stored never comes: what waits for it may run.
        Asked at start (an old stream and a fresh database) and while something waits."""
        asked = False
        while True:
            try:
                if not asked or await self._inbox.waits_for_gap():
                    await self._settle_below_floor()
                    asked = True
            except Exception as error:
                if not is_transient(error):
                    raise
                log.info("intake.gap_unknown", error=describe(error))
            await asyncio.sleep(GAP_SECONDS)

    def _clean(self, delivery: Delivery) -> Delivery:
        clean = without_keys(delivery)
        if clean is not delivery:
            log.warning("intake.key_in_clear", subject=delivery.subject, sequence=delivery.sequence)
            self._stray.add(delivery.sequence)
        return clean

    async def _ack(self, batch: Sequence[Delivery]) -> None:
        """What held a key in clear is erased first: an ack alone leaves its bytes in the stream's
        file."""
        for delivery in batch:
            if delivery.sequence in self._stray:
                await self._publisher.erase(delivery.stream, delivery.sequence)
                self._stray.discard(delivery.sequence)
        await self._pull.ack_all(batch)

    async def _take(self, batch: Sequence[Delivery]) -> None:
        """Returns when every delivery is stored or buried, and acked; waits out every transient
        fault."""
        delay = 0.1
        while True:
            try:
                await self._store_or_split(batch)
                self._health.ready(self._condition)
                return
            except Exception as error:
                if not is_transient(error):
                    raise
                self._health.not_ready(self._condition, describe(error))
                log.warning("consumer.paused", consumer=self._condition, error=describe(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _store_or_split(self, batch: Sequence[Delivery]) -> None:
        """One delivery that cannot be stored must not take the others with it."""
        try:
            await self._store(batch)
        except Exception as error:
            if is_transient(error):
                raise
            if len(batch) == 1:
                log.error("intake.failed", error=describe(error))
                await self._settle(
                    await self._arrival(batch[0]), f"unexpected: {type(error).__name__}"
                )
                await self._ack(batch)
                return
            for delivery in batch:
                await self._store_or_split([delivery])

    async def _store(self, batch: Sequence[Delivery]) -> None:
        await self._learn_incarnation()
        stored = await self._inbox.store([await self._arrival(delivery) for delivery in batch])
        for conflict in stored.conflicts:
            await self._settle(conflict, "id_conflict: this ce-id came before with another content")
        await self._ack(batch)
        self._wake.set()

    async def _arrival(self, delivery: Delivery) -> Arrival[Delivery]:
        """Poison is buried before its place counts as settled."""
        incarnation = self._incarnation(delivery)
        try:
            command = command_parser.read(
                delivery.id, delivery.subject, delivery.source, delivery.body
            )
        except Malformed as error:
            await self._dead.add(delivery, f"{error.reason}: {error}")
            return Arrival(delivery, incarnation)
        return Arrival(delivery, incarnation, command.keys)

    async def _settle(self, arrival: Arrival[Delivery], reason: str) -> None:
        await self._dead.add(arrival.delivery, reason)
        await self._inbox.store([replace(arrival, keys=())])

    async def _learn_incarnation(self) -> None:
        """Asked for every batch: a stream that was made anew counts from 1 again."""
        if not self._incarnations:
            self._incarnations = await self._inbox.known_incarnations()
        created = await self._created()
        if created not in self._incarnations:
            self._incarnations = sorted([*self._incarnations, created])

    def _incarnation(self, delivery: Delivery) -> datetime:
        """The stream that the delivery came from: the last that was made before the message was
        stored."""
        before = [made for made in self._incarnations if made <= delivery.stream_time]
        return before[-1] if before else self._incarnations[-1]

    async def _created(self) -> datetime:
        created = (await self._js.stream_info(self._pull.stream)).created
        if created is None:
            raise BrokerAway(f"{self._pull.stream} does not say when it was made")
        return created

    async def _settle_below_floor(self) -> None:
        before = await self._created()
        info = await self._js.consumer_info(self._pull.stream, self._pull.durable)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        if await self._created() == before and await self._inbox.settle_below(before, floor):
            log.info("intake.gap_settled", floor=floor)
            self._wake.set()
