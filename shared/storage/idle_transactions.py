"""Ends the connections of processes that were stopped in the middle of a statement.

Between two statements PostgreSQL's own time-out does that (open_pool). In the middle of one, of a
large answer or of a COPY, it waits for its client as long as the connection stands, and keeps all
locks meanwhile: so the others look."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from shared.faults import is_transient
from shared.storage.pool import Pool

log = structlog.get_logger()
_LOOK_SECONDS: Final = 0.5
_END: Final = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where usename = current_user and datname = current_database() and xact_start is not null
    and wait_event_type = 'Client' and state_change < clock_timestamp() - make_interval(secs => $1)
"""


async def terminate_idle_transactions(pool: Pool, seconds: float) -> None:
    """For ever: of this login and database, those in a transaction whose client neither reads nor
    sends for so long."""
    while True:
        try:
            ended = await pool.fetchval(_END, seconds)
            if ended:
                log.warning("database.stalled", ended=ended)
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(_LOOK_SECONDS)
