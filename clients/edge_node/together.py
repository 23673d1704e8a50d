"""Tasks that belong together: when one ends, all end, whatever a library does with a
cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

_AGAIN_SECONDS = 0.2


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs them until the first one ends; raises what ended it. Waits until the others have ended
    too.

    Not a TaskGroup: before Python 3.12 ``asyncio.wait_for`` (in nats-py, say) can lose a
    cancellation, and a group would wait for that task for ever. Here it is cancelled again."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
