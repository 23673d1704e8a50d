"""A lease: one holder at a time, by a row with 3 s to live and a fencing number.

Not a session lock, which a stopped process keeps."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable

import structlog

from shared.faults import describe, is_transient
from shared.ids import new_id
from shared.storage.pool import Pool

log = structlog.get_logger()
TERM_SECONDS = 3.0
RENEW_SECONDS = 0.8

_TAKE = """
insert into leases as l (name, holder, fencing, expires_at)
values ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
on conflict (name) do update set
    holder = excluded.holder,
    expires_at = excluded.expires_at,
    fencing = l.fencing + case when l.holder = excluded.holder then 0 else 1 end
where l.holder = excluded.holder or l.expires_at < clock_timestamp()
returning fencing
"""


# Invariant: at most one process works under a lease.
# - A holder works only until TERM_SECONDS after its last renewal began, by its own monotonic clock.
# - Another process takes the row only when TERM_SECONDS have passed by the database's clock since
#   that renewal was written, which is later than it began.
# - So two never work at once, unless a process stands still in the middle of a step (SIGSTOP, a
#   long pause of the machine). The fencing number grows with each new holder and tells such a step
#   apart: what it writes carries the old number.
class Lease:
    """A lease of one name."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool, self.name = pool, name
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{new_id()[:8]}"
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Return whether this process holds the lease now."""
        return time.monotonic() < self._until

    async def hold(self, work: Callable[[int], Awaitable[None]]) -> None:
        """Run ``work(fencing)`` whenever this process has the lease, and cancel it when it has
        not. Never returns.

        A transient fault of ``work`` begins a new round; any other fault is raised."""
        try:
            while True:
                fencing = await self._take_or_renew()
                if fencing is None:
                    await asyncio.sleep(RENEW_SECONDS)
                    continue
                log.info("lease.taken", lease=self.name, fencing=fencing)
                await self._work_while_held(work, fencing)
        finally:
            await self._give_back()

    async def _work_while_held(self, work: Callable[[int], Awaitable[None]], fencing: int) -> None:
        task = asyncio.ensure_future(work(fencing))
        try:
            while self.held and not task.done():
                await asyncio.wait({task}, timeout=RENEW_SECONDS)
                if await self._take_or_renew() not in (fencing, None):
                    break
        finally:
            if not task.done():
                task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
        for error in _flatten_errors(result):
            if not isinstance(error, asyncio.CancelledError) and not is_transient(error):
                raise error
            log.warning("lease.round_over", lease=self.name, error=describe(error))

    async def _take_or_renew(self) -> int | None:
        """Take or renew the lease and return the fencing number. None when another process holds
        it or the database is away."""
        started = time.monotonic()
        try:
            row = await self._pool.fetchval(_TAKE, self.name, self.holder, TERM_SECONDS, timeout=2)
        except Exception as error:
            if not is_transient(error):
                raise
            return None
        if row is None:
            self._until = 0.0
            return None
        self._until = started + TERM_SECONDS
        return int(row)

    async def _give_back(self) -> None:
        self._until = 0.0
        try:
            await self._pool.execute(
                "update leases set expires_at = clock_timestamp() where name = $1 and holder = $2",
                self.name,
                self.holder,
                timeout=1,
            )
        except Exception as error:
            log.info("lease.not_given_back", lease=self.name, error=describe(error))


def _flatten_errors(error: object) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _flatten_errors(part)]
    return [error] if isinstance(error, BaseException) else []
