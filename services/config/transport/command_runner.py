"""The loops that run stored commands and what follows from them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from services.config.usecases.decide import KEYS_AT_ONCE, CommandDecider
from shared.faults import describe, is_transient
from shared.messages import StreamPosition
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.observability.health import Health
from shared.retry import retry
from shared.storage import inbox
from shared.storage.inbox import QueuedCommand
from shared.storage.pool import Pool

log = structlog.get_logger()
POLL_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 0.2


class CommandRunner:
    """Runs ready commands, key by key where one of them fails for a fault of ours."""

    def __init__(self, pool: Pool, decider: CommandDecider, dead_letters: DeadLetters) -> None:
        self._pool = pool
        self._decider = decider
        self._dead_letters = dead_letters

    async def run_round(self) -> bool:
        """Run what is ready now; return whether there was anything."""
        try:
            return bool(await self._decider.run_ready())
        except Exception as error:
            if is_transient(error):
                raise
            log.error("runner.failed", error=describe(error))
        # One of up to 200 keys cannot be run, and the transaction of all was rolled back. Key by
        # key, the others run, and the first command of the bad key is given up. That goes on until
        # the limit of dead letters: then the line stops, instead of a bug refusing every command.
        keys = await inbox.find_ready_keys(self._pool, KEYS_AT_ONCE)
        for key in keys:
            await self._run_key(key)
        return bool(keys)

    async def _run_key(self, key: str) -> None:
        try:
            await self._decider.run_ready(key)
        except Exception as error:
            if is_transient(error):
                raise
            await self._decider.give_up(key, partial(self._add_dead_letter, error))
        self._dead_letters.message_settled()

    async def _add_dead_letter(self, error: Exception, queued: QueuedCommand) -> None:
        headers = {"ce-id": queued.message_id, "ce-source": queued.source}
        position = StreamPosition(queued.stream, queued.sequence, queued.stream_time)
        delivery = Delivery.of(queued.subject, queued.body, headers, position)
        await self._dead_letters.add_unexpected(delivery, error, settled=True)


async def run_when_woken(
    work: Callable[[], Awaitable[bool]],
    wake: asyncio.Event,
    *,
    health: Health | None = None,
    condition: str = "",
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Call ``work`` again and again while it returns True, otherwise when ``wake`` is set, and
    every ``poll_seconds`` besides. Never returns.

    ``wake`` may be set by this process or, over LISTEN, by any other one. A notification can be
    lost with its connection: polling finds what it was about."""
    while True:
        wake.clear()
        busy = await retry(
            work,
            health=health,
            condition=condition,
            on_fault=_log_fault if health is None else None,
            longest_delay=_LONGEST_DELAY_SECONDS,
        )
        if not busy:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await wake.wait()


def _log_fault(error: Exception) -> None:
    log.warning("work.paused", error=describe(error))
