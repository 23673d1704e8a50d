"""Wait for a condition with a generous limit, never for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

ValueT = TypeVar("ValueT")

LIMIT_SECONDS: Final = 60.0
"""Long enough for a machine whose cores are all taken: a limit ends a test that would hang, it
says nothing about speed."""


async def until(
    condition: Callable[[], ValueT | Awaitable[ValueT]],
    what: str,
    *,
    limit: float = LIMIT_SECONDS,
    every: float = 0.02,
) -> ValueT:
    """Return the first true value of ``condition`` (plain or async), asked every ``every`` seconds.

    Raise AssertionError with ``what`` after ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:g} s: {what}")
        await asyncio.sleep(every)


async def within(
    awaitable: Awaitable[ValueT], what: str, *, limit: float = LIMIT_SECONDS
) -> ValueT:
    """Return what ``awaitable`` yields; raise AssertionError with ``what`` after ``limit`` seconds.

    The awaitable is cancelled then.
    """
    try:
        return await asyncio.wait_for(awaitable, limit)
    except TimeoutError:
        raise AssertionError(f"not within {limit:g} s: {what}") from None
