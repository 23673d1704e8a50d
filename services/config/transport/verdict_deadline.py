"""The deadline of a judgement: 10 s (``judging_seconds``) in which a verdict was possible.

Time counts from the PubAck of the question, while this process had broker and database. What counts
is in services/config/domain/uptime.py.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from nats.aio.client import Client

from services.config.domain.uptime import PresenceLog
from services.config.store.domains import OverdueSubmission, load_overdue
from services.config.usecases.decide import CommandDecider
from shared.faults import describe
from shared.retry import every
from shared.storage.pool import Pool

log = structlog.get_logger()
LOOK_SECONDS = 0.5


class VerdictDeadline:
    """Ends submissions that got no verdict in time as undecided.

    ``seconds``: how long a verdict may take. ``wake``: of the command runner, for what waited for
    the verdict."""

    def __init__(
        self,
        pool: Pool,
        client: Client,
        decider: CommandDecider,
        seconds: float,
        wake: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._client = client
        self._decider = decider
        self._seconds = seconds
        self._wake = wake
        self._connected = PresenceLog()

    async def run(self) -> None:
        """Look for submissions past their deadline. Never returns."""
        await every(min(LOOK_SECONDS, self._seconds / 4), self._look, on_fault=self._note_outage)

    async def _look(self) -> None:
        async with self._pool.acquire() as connection:
            overdue = await load_overdue(connection, self._seconds)
        now = time.monotonic()
        self._connected.note(now, self._client.is_connected)
        for submission in overdue:
            if self._is_over(submission, now):
                await self._end(submission)

    def _is_over(self, submission: OverdueSubmission, now: float) -> bool:
        asked_at = now - submission.age
        return self._connected.seconds_between(asked_at, now) >= self._seconds

    async def _end(self, submission: OverdueSubmission) -> None:
        if await self._decider.decide_timeout(submission.submission_id):
            log.warning("submission.undecided", key=submission.key)
            self._wake.set()

    def _note_outage(self, error: Exception) -> None:
        self._connected.note(time.monotonic(), False)
        log.info("deadline.paused", error=describe(error))
