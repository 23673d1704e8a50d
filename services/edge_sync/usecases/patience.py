"""Waiting out what passes: broker, database or config away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.messaging.consumer import describe, passes
from shared.observability.health import Health

log = structlog.get_logger()
ResultT = TypeVar("ResultT")
FIRST, LONGEST = 0.1, 2.0


async def patiently(
    work: Callable[[], Awaitable[ResultT]], health: Health, condition: str
) -> ResultT:
    """``work()``, again and again while it fails with what passes; readiness shows ``condition``
    meanwhile."""
    delay = FIRST
    while True:
        try:
            result = await work()
        except Exception as error:
            if not passes(error):
                raise
            health.not_ready(condition, describe(error))
            log.warning("paused", condition=condition, error=describe(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST)
        else:
            health.ready(condition)
            return result
