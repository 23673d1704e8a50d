"""All SQL of billing. A function takes a connection and runs in the transaction of its caller.

Every transaction takes its locks in one order: owners_gate, then rows of node_logs, of
usage_minutes and of accounts, each in order of its key. So two processes that share the work
cannot wait for each other in a circle.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.storage.pool import Connection, Pool

Reader = Connection | Pool
"""For a single statement: any connection will do."""
MAINTENANCE_SECONDS = 600
"""For a statement that tidies up and may have a day's work. Others have the pool's 30 s."""


@asynccontextmanager
async def open_snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """Open one snapshot for a question that takes several statements.

    Each statement is planned for its values: a plan that must fit any account and period reads far
    more than a page."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("set local plan_cache_mode = force_custom_plan")
        yield connection


async def is_enqueued(connection: Connection, message_id: str) -> bool:
    """Return whether a message was written to the outbox before.

    A lock of the caller keeps other transactions from writing it meanwhile."""
    found = await connection.fetchval("select true from outbox where message_id = $1", message_id)
    return found is not None
