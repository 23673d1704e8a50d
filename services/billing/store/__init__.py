"""All SQL of billing. Every function takes a connection and runs in its caller's transaction.

Locks are taken in one order by everybody: owners_gate, rows of node_logs, usage_minutes and
accounts, each in order of its key. So two processes that share the work cannot wait for each other
in a circle.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.storage.pool import Connection, Pool

Reader = Connection | Pool
"""For a single statement: any connection will do."""
MAINTENANCE_SECONDS = 600
"""For a statement that tidies up and may have a day's work: what waits for an answer gets the
pool's 30 s."""


@asynccontextmanager
async def open_snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """One snapshot for a question that takes several statements, each planned for its values: a
    plan that must fit any account and period reads far more than a page."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local plan_cache_mode = force_custom_plan")
        yield connection
