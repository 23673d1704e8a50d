"""Waiting for a condition with a limit: never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(
    condition: Callable[[], T | Awaitable[T]],
    what: str,
    *,
    limit: float = 10.0,
    every: float = 0.02,
) -> T:
    """The first true value of ``condition`` (plain or async); AssertionError with ``what`` after
    ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:g} s: {what}")
        await asyncio.sleep(every)
