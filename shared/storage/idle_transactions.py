"""Ends the sessions of stopped processes that hold locks.

Between two statements PostgreSQL's own time-out ends them (open_pool). In the middle of a
statement, of a large answer or of a COPY, PostgreSQL waits for its client as long as the
connection stands, and keeps all locks meanwhile: so the other processes look."""

from __future__ import annotations

from typing import Final, NoReturn

import structlog

from shared.retry import every
from shared.storage.pool import Pool

log = structlog.get_logger()
_LOOK_SECONDS: Final = 0.5
_END: Final = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where usename = current_user and datname = current_database() and xact_start is not null
    and wait_event_type = 'Client' and state_change < clock_timestamp() - make_interval(secs => $1)
"""


async def terminate_idle_transactions(pool: Pool, seconds: float) -> NoReturn:
    """Terminate sessions of this role and database that wait on their client inside a
    transaction for more than ``seconds``. Never returns."""

    async def terminate() -> None:
        ended = await pool.fetchval(_END, seconds)
        if ended:
            log.warning("database.stalled", ended=ended)

    await every(_LOOK_SECONDS, terminate)
