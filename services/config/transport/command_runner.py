"""The loops that never end: run what is ready, end what is overdue, keep the house."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog
from nats.aio.client import Client

from services.config.domain.commands import Timeout
from services.config.domain.uptime import Attendance
from services.config.store import domains
from services.config.usecases.decide import KEYS_AT_ONCE, Decider
from shared.faults import describe, is_transient
from shared.messages import StreamPosition
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.observability.health import Health
from shared.storage import inbox
from shared.storage.inbox import Inbox, Target
from shared.storage.pool import Pool

log = structlog.get_logger()
POLL_SECONDS = 0.5
SWEEP_SECONDS = 600


class Runner:
    """Runs what is ready whenever ``wake`` is set (by this process or, over LISTEN, by any); polls
    besides."""

    def __init__(
        self, pool: Pool, decider: Decider, dead: DeadLetters, health: Health, wake: asyncio.Event
    ) -> None:
        self._pool, self._decider, self._dead, self._health, self._wake = (
            pool,
            decider,
            dead,
            health,
            wake,
        )

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                busy = await self._round()
                self._health.ready("database")
            except Exception as error:
                if not is_transient(error):
                    raise
                self._health.not_ready("database", describe(error))
                log.warning("runner.paused", error=describe(error))
                await asyncio.sleep(0.2)
                continue
            if not busy:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._wake.wait()

    async def _round(self) -> bool:
        try:
            return bool(await self._decider.run_ready())
        except Exception as error:
            if is_transient(error):
                raise
            log.error("runner.failed", error=describe(error))
        # One of many cannot be run: the others must not wait for it.
        keys = await inbox.ready_keys(self._pool, KEYS_AT_ONCE)
        for key in keys:
            await self._alone(key)
        return bool(keys)

    async def _alone(self, key: str) -> None:
        try:
            await self._decider.run_ready(key)
        except Exception as error:
            if is_transient(error):
                raise
            reason = f"unexpected: {type(error).__name__}"
            await self._decider.give_up(
                key, lambda target: self._dead.add(_delivery_of(target), reason, settled=True)
            )


class Deadlines:
    """Ends submissions that no verdict came for: ``seconds`` from the question's PubAck, broker and
    database there."""

    def __init__(
        self, pool: Pool, client: Client, decider: Decider, seconds: float, wake: asyncio.Event
    ) -> None:
        self._pool, self._client, self._decider, self._seconds, self._wake = (
            pool,
            client,
            decider,
            seconds,
            wake,
        )
        self._attendance = Attendance()

    async def run(self) -> None:
        while True:
            try:
                await self._tick()
            except Exception as error:
                if not is_transient(error):
                    raise
                self._attendance.note(time.monotonic(), False)
            await asyncio.sleep(min(POLL_SECONDS, self._seconds / 4))

    async def _tick(self) -> None:
        async with self._pool.acquire() as connection:
            overdue = await domains.overdue(connection, self._seconds)
        now = time.monotonic()
        self._attendance.note(now, self._client.is_connected)
        for one in overdue:
            if self._attendance.seconds(now - one.age, now) < self._seconds:
                continue
            if await self._decider.answer(Timeout(one.submission_id)):
                log.warning("submission.undecided", domain=one.domain)
                self._wake.set()


async def keep_house(pool: Pool, box: Inbox) -> None:
    """Forgets ids and tombstones that are over 35 days old."""
    while True:
        try:
            await box.sweep()
            async with pool.acquire() as connection:
                await domains.drop_tombstones(connection)
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(SWEEP_SECONDS)


def _delivery_of(target: Target) -> Delivery:
    """Rebuild the delivery of a queued command, for a dead letter."""
    headers = {"ce-id": target.message_id, "ce-source": target.source}
    position = StreamPosition(target.stream, target.sequence, target.stream_time)
    return Delivery.of(target.subject, target.body, headers, position)
