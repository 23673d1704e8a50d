"""Connections to the service's own database."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import asyncpg
import structlog

from shared.errors import SettingsError
from shared.faults import describe
from shared.retry import every, retry

log = structlog.get_logger()
RELISTEN_SECONDS = 0.5
if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = (
        asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    )
else:  # the classes of asyncpg are generic for type checkers only
    Pool, Connection = asyncpg.Pool, asyncpg.Connection


async def open_pool(dsn: str, *, size: int = 8, stalled_seconds: float = 0) -> Pool:
    """Open a pool; waits for PostgreSQL as long as it takes.

    SettingsError when the login is refused or the database does not exist. ``stalled_seconds``:
    PostgreSQL ends a transaction whose client sent nothing between two statements for so long,
    so that a stopped process does not keep its locks (0: never). For the middle of a statement
    see idle_transactions.py."""
    settings = {"application_name": "edgetls"}
    if stalled_seconds:
        settings["idle_in_transaction_session_timeout"] = f"{stalled_seconds * 1000:.0f}"

    def log_away(error: Exception) -> None:
        log.warning("database.away", place=dsn_place(dsn), error=describe(error))

    return await retry(
        partial(_create_pool, dsn, size, settings),
        on_fault=log_away,
        first_delay=0.3,
        longest_delay=0.3,
    )


async def _create_pool(dsn: str, size: int, settings: dict[str, str]) -> Pool:
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            command_timeout=30,
            timeout=5,
            init=_set_json_codec,
            server_settings=settings,
        )
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
    ) as error:
        raise SettingsError(f"PostgreSQL refused {dsn_place(dsn)}: {error}") from None
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        raise SettingsError(f"the DSN is not valid: {type(error).__name__}") from None


def dsn_place(dsn: str) -> str:
    """Return host and database of a DSN, without its password."""
    parts = urlsplit(dsn)
    return f"{parts.username}@{parts.hostname or 'socket'}:{parts.port or 5432}{parts.path}"


async def _set_json_codec(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )


async def listen(pool: Pool, channel: str, wake: asyncio.Event) -> NoReturn:
    """Set ``wake`` at every NOTIFY of ``channel``. Never returns; a lost connection is made
    anew.

    The caller polls as well, which covers the gap."""

    async def listen_until_lost() -> None:
        async with pool.acquire() as connection:
            await _listen_on(connection, channel, wake)

    def log_lost(error: Exception) -> None:
        log.warning("listen.lost", channel=channel, error=describe(error))

    await every(RELISTEN_SECONDS, listen_until_lost, on_fault=log_lost)


async def _listen_on(connection: Connection, channel: str, wake: asyncio.Event) -> None:
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
