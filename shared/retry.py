"""Trying again, doing something every few seconds, and running tasks together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import structlog

from shared.faults import describe, is_transient
from shared.observability.health import Health

log = structlog.get_logger()
ResultT = TypeVar("ResultT")
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 2.0
_CANCEL_AGAIN_SECONDS = 0.2


# The only back-off of the product: every other module that tries again calls this function.
async def retry(
    work: Callable[[], Awaitable[ResultT]],
    *,
    retry_on: Callable[[Exception], bool] = is_transient,
    on_fault: Callable[[Exception], None] | None = None,
    health: Health | None = None,
    condition: str = "",
    deadline_seconds: float | None = None,
    first_delay: float = FIRST_DELAY_SECONDS,
    longest_delay: float = LONGEST_DELAY_SECONDS,
) -> ResultT:
    """Call ``work`` until it returns, with growing delays, and return its result.

    A fault that ``retry_on`` does not accept is raised at once, and so is the last fault when the
    next attempt would begin after ``deadline_seconds``. Each other fault goes to ``on_fault``, and
    ``health`` shows ``condition`` as missing until ``work`` returned."""
    give_up_at = None if deadline_seconds is None else time.monotonic() + deadline_seconds
    delay = first_delay
    while True:
        try:
            result = await work()
        except Exception as error:
            if not retry_on(error):
                raise
            if give_up_at is not None and time.monotonic() + delay > give_up_at:
                raise
            if on_fault is not None:
                on_fault(error)
            if health is not None:
                health.not_ready(condition, describe(error))
                log.warning("paused", condition=condition, error=describe(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest_delay)
        else:
            if health is not None:
                health.ready(condition)
            return result


async def every(
    seconds: float | Callable[[], float],
    work: Callable[[], Awaitable[object]],
    *,
    on_fault: Callable[[Exception], None] | None = None,
) -> NoReturn:
    """Call ``work`` now and then every ``seconds``, counted from its end. Never returns.

    A transient fault goes to ``on_fault`` and is over with the round; any other fault is raised."""
    while True:
        # A round that failed is over: the next one comes after the same pause, not sooner.
        try:
            await work()
        except Exception as error:
            if not is_transient(error):
                raise
            if on_fault is not None:
                on_fault(error)
        await asyncio.sleep(seconds() if callable(seconds) else seconds)


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until the first one ends, end the others, and raise what ended the first.

    Not a TaskGroup: before Python 3.12 ``asyncio.wait_for`` (in nats-py, for example) can lose a
    cancellation, and a group would wait for that task for ever. Here a task is cancelled again
    until it ends."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
