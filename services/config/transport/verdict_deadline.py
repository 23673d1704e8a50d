"""The deadline of a judgement: 10 s (``judging_seconds``) in which a verdict was possible.

Time counts from the PubAck of the question, while this process had broker and database, and a
validator was there (docs/decisions/0012-judging-time-needs-a-validator.md). So no outage and no
killed validator costs a customer his upload. What counts is in services/config/domain/uptime.py.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from nats.aio.client import Client

from services.config.domain.uptime import JudgingTime, QuestionQueue
from services.config.usecases.decide import CommandDecider
from shared import subjects
from shared.faults import describe, is_transient
from shared.retry import every

log = structlog.get_logger()
LOOK_SECONDS = 0.5
_BROKER_SECONDS = 2.0


class VerdictDeadline:
    """Ends submissions that got no verdict in time as undecided.

    ``seconds``: how long a verdict may take. ``wake`` tells the command runner to go
    on with the commands that waited for the verdict."""

    def __init__(
        self, client: Client, decider: CommandDecider, seconds: float, wake: asyncio.Event
    ) -> None:
        self._client = client
        self._js = client.jetstream(timeout=_BROKER_SECONDS)
        self._decider = decider
        self._seconds = seconds
        self._wake = wake
        self._judging_time = JudgingTime(seconds)

    async def run(self) -> None:
        """Look for submissions past their deadline. Never returns."""
        await every(min(LOOK_SECONDS, self._seconds / 4), self._look, on_fault=self._note_outage)

    async def _look(self) -> None:
        # The queue is looked at in every round, with or without overdue submissions: time that was
        # not seen is not counted, and a submission may become overdue at any time.
        overdue = await self._decider.find_overdue(self._seconds)
        queue = await self._load_queue()
        now = time.monotonic()
        self._judging_time.note(now, self._client.is_connected, queue)
        for submission in overdue:
            if not self._judging_time.is_over(now - submission.age, now):
                continue
            if await self._decider.decide_timeout(submission.submission_id):
                log.warning("submission.undecided", key=submission.key)
                self._wake.set()

    async def _load_queue(self) -> QuestionQueue | None:
        """Return the state of the validators' queue; None while the broker does not report it."""
        try:
            info = await self._js.consumer_info(subjects.STREAM_JUDGING, subjects.DURABLE_VALIDATOR)
        except Exception as error:
            if not is_transient(error):
                raise
            return None
        delivered = 0 if info.delivered is None else info.delivered.consumer_seq
        return QuestionQueue(info.num_waiting or 0, delivered, info.num_ack_pending or 0)

    def _note_outage(self, error: Exception) -> None:
        self._judging_time.note(time.monotonic(), False, None)
        log.info("deadline.paused", error=describe(error))
