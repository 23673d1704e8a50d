"""Connections to the service's own database."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import structlog

from shared.errors import SettingsError
from shared.faults import describe, is_transient

log = structlog.get_logger()
if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = (
        asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    )
else:  # the classes of asyncpg are generic for type checkers only
    Pool, Connection = asyncpg.Pool, asyncpg.Connection


async def open_pool(dsn: str, *, size: int = 8, stalled_seconds: float = 0) -> Pool:
    """Waits for PostgreSQL as long as it takes; SettingsError when it refuses the login or the
    database is none.

    ``stalled_seconds``: after so long between two statements of a transaction PostgreSQL ends it,
    so that a process that was stopped does not keep its locks (0: never); in the middle of a
    statement end_stalled() does."""
    settings = {"application_name": "edgetls"}
    if stalled_seconds:
        settings["idle_in_transaction_session_timeout"] = f"{stalled_seconds * 1000:.0f}"
    while True:
        try:
            return await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                command_timeout=30,
                timeout=5,
                init=_prepare,
                server_settings=settings,
            )
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
        ) as error:
            raise SettingsError(f"PostgreSQL refused {place(dsn)}: {error}") from None
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise SettingsError(f"the DSN is not valid: {type(error).__name__}") from None
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("database.away", place=place(dsn), error=describe(error))
            await asyncio.sleep(0.3)


def place(dsn: str) -> str:
    """Host and database of a DSN, without its password."""
    parts = urlsplit(dsn)
    return f"{parts.username}@{parts.hostname or 'socket'}:{parts.port or 5432}{parts.path}"


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )


async def listen(pool: Pool, channel: str, wake: asyncio.Event) -> None:
    """For ever: sets ``wake`` at every NOTIFY of ``channel``; a lost connection is made anew. The
    caller polls besides, which covers the gap."""
    while True:
        try:
            async with pool.acquire() as connection:
                await _listen(connection, channel, wake)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("listen.lost", channel=channel, error=describe(error))
            await asyncio.sleep(0.5)


async def _listen(connection: Connection, channel: str, wake: asyncio.Event) -> None:
    try:
        await connection.add_listener(channel, lambda *_: wake.set())
        wake.set()
        while not connection.is_closed():
            await connection.fetchval("select 1")
            await asyncio.sleep(5)
    finally:
        # Not UNLISTEN: on a connection whose server was killed it may wait for ever. A lost one is
        # released already.
        with contextlib.suppress(asyncpg.InterfaceError):
            connection.terminate()
