"""Work on many accounts at once, where one that fails must not hold up the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shared.faults import describe, is_transient

log = structlog.get_logger()
ACCOUNTS_TOGETHER: Final = 200
"""Accounts in one transaction: their rows are locked for as long as it takes."""


async def isolate_failures(
    names: list[str], work: Callable[[list[str]], Awaitable[int]], failed: set[str]
) -> int:
    """``work`` on all, or on each alone where that fails for a reason of our own; who fails alone
    joins ``failed``.

    The sum of what ``work`` gives. A transient fault is raised."""
    try:
        return await work(names)
    except Exception as error:
        if is_transient(error):
            raise
        if len(names) == 1:
            log.error("account.failed", account=names[0], error=describe(error))
            failed.add(names[0])
            return 0
    return sum([await isolate_failures([name], work, failed) for name in names])
