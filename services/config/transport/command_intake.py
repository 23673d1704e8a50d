"""Commands from their stream into the inbox: parsed once, stored in batches, then acked. Poison
becomes a dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog
from nats.aio.client import Client

from services.config.domain import command_parser
from services.config.domain.key_redaction import remove_keys
from shared.errors import BrokerAway, Malformed
from shared.faults import describe, is_transient
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.retry import every, retry
from shared.storage.inbox import ArrivedMessage, Inbox

log = structlog.get_logger()
GAP_SECONDS = 0.5
_BROKER_SECONDS = 5


# The order that loses nothing: first the dead letter or the row in the inbox, then the ack. A
# process that dies in between gets the delivery again. The inbox knows it by its position, and DEAD
# by its message id, so nothing is there twice.
class CommandIntake:
    """Takes the stream of commands. ``wake`` is set when something new may run."""

    def __init__(
        self,
        client: Client,
        pull: Pull,
        inbox: Inbox,
        dead_letters: DeadLetters,
        health: Health,
        wake: asyncio.Event,
    ) -> None:
        self._js = client.jetstream(timeout=_BROKER_SECONDS)
        self._publisher = Publisher(client)
        self._pull = pull
        self._inbox = inbox
        self._dead_letters = dead_letters
        self._health = health
        self._wake = wake
        self._condition = f"{pull.stream}/{pull.durable}"
        self._incarnations: list[datetime] = []
        self._sequences_with_keys: set[int] = set()

    async def run(self) -> None:
        """Take batches until cancelled. A batch is acked when each delivery is stored or a dead
        letter."""
        async for batch in self._pull.batches():
            cleaned = [self._remove_keys(delivery) for delivery in batch]
            store = partial(self._store_or_split, cleaned)
            await retry(store, health=self._health, condition=self._condition)

    async def watch_gaps(self) -> None:
        """Settle sequences below the ack floor that are not stored: they will never come, and what
        waits for them may run.

        The floor is asked for at the start (an old stream and a fresh database) and while something
        waits."""
        asked_once = False

        async def settle_gaps() -> None:
            nonlocal asked_once
            if not asked_once or await self._inbox.waits_for_gap():
                await self._settle_below_floor()
                asked_once = True

        await every(
            GAP_SECONDS,
            settle_gaps,
            on_fault=lambda error: log.info("intake.gap_unknown", error=describe(error)),
        )

    def _remove_keys(self, delivery: Delivery) -> Delivery:
        cleaned = remove_keys(delivery)
        if cleaned is not delivery:
            log.warning("intake.key_in_clear", subject=delivery.subject, sequence=delivery.sequence)
            self._sequences_with_keys.add(delivery.sequence)
        return cleaned

    async def _store_or_split(self, batch: Sequence[Delivery]) -> None:
        """Store a batch. One delivery that cannot be stored must not take the others with it."""
        try:
            await self._store(batch)
        except Exception as error:
            if is_transient(error):
                raise
            if len(batch) > 1:
                for delivery in batch:
                    await self._store_or_split([delivery])
                return
            log.error("intake.failed", error=describe(error))
            await self._dead_letters.add_unexpected(batch[0], error)
            arrived = ArrivedMessage(batch[0], self._incarnation_of(batch[0]))
            await self._inbox.store([arrived])
            await self._ack(batch)
            self._dead_letters.message_settled()

    async def _store(self, batch: Sequence[Delivery]) -> None:
        await self._update_incarnations()
        arrived = [await self._parse(delivery) for delivery in batch]
        stored = await self._inbox.store(arrived)
        for conflict in stored.conflicts:
            reason = "id_conflict: this ce-id came before with another content"
            await self._dead_letters.add(conflict.delivery, reason)
            await self._inbox.store([replace(conflict, keys=())])
        await self._ack(batch)
        self._wake.set()

    async def _parse(self, delivery: Delivery) -> ArrivedMessage[Delivery]:
        """Find the keys of a command. Poison becomes a dead letter before its sequence counts as
        settled."""
        incarnation = self._incarnation_of(delivery)
        try:
            body = command_parser.parse_command(delivery.id, delivery.subject, delivery.body)
            targets = command_parser.find_targets(body)
        except Malformed as error:
            await self._dead_letters.add(delivery, f"{error.reason}: {error}")
            return ArrivedMessage(delivery, incarnation)
        keys = dict.fromkeys(target.key for target in targets)
        return ArrivedMessage(delivery, incarnation, tuple(keys))

    async def _ack(self, batch: Sequence[Delivery]) -> None:
        """Ack a batch. What held a key in clear is erased first: an ack alone leaves its bytes in
        the stream's file."""
        for delivery in batch:
            if delivery.sequence in self._sequences_with_keys:
                await self._publisher.erase(delivery.stream, delivery.sequence)
                self._sequences_with_keys.discard(delivery.sequence)
        await self._pull.ack_all(batch)

    async def _update_incarnations(self) -> None:
        """Ask the broker when the stream was made, for every batch: a stream that was made anew
        counts from 1 again."""
        if not self._incarnations:
            self._incarnations = await self._inbox.load_incarnations()
        created = await self._stream_created()
        if created not in self._incarnations:
            self._incarnations = sorted([*self._incarnations, created])

    def _incarnation_of(self, delivery: Delivery) -> datetime:
        """Return when the delivery's stream was made: the last one made before the message was
        stored."""
        incarnation = self._incarnations[-1]
        for created in self._incarnations:
            if created <= delivery.stream_time:
                incarnation = created
        return incarnation

    async def _stream_created(self) -> datetime:
        created = (await self._js.stream_info(self._pull.stream)).created
        if created is None:
            raise BrokerAway(f"the broker does not report when {self._pull.stream} was made")
        return created

    async def _settle_below_floor(self) -> None:
        before = await self._stream_created()
        info = await self._js.consumer_info(self._pull.stream, self._pull.durable)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        if await self._stream_created() != before:
            return
        if await self._inbox.settle_below(before, floor):
            log.info("intake.gap_settled", floor=floor)
            self._wake.set()
