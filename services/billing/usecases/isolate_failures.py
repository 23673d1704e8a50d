"""Work on many accounts at once, where one account that fails must not hold up the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shared.faults import describe, is_transient

log = structlog.get_logger()
ACCOUNTS_TOGETHER: Final = 200
"""Accounts in one transaction: their rows are locked for as long as it takes."""


async def isolate_failures(
    accounts: list[str], work: Callable[[list[str]], Awaitable[int]], failed: set[str]
) -> int:
    """Do ``work`` for all accounts, or for each alone when that fails for a fault of ours.

    An account that fails alone joins ``failed``. Return the sum of the results. A transient fault
    is raised."""
    try:
        return await work(accounts)
    except Exception as error:
        if is_transient(error):
            raise
        if len(accounts) == 1:
            log.error("account.failed", account=accounts[0], error=describe(error))
            failed.add(accounts[0])
            return 0
    done = 0
    for account in accounts:
        done += await isolate_failures([account], work, failed)
    return done
