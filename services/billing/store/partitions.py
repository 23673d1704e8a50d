"""The monthly partitions of the archive: made before they are needed, dropped after 13 months."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from shared.storage.pool import Connection, Pool

MONTHS_KEPT: Final = 13
_LOCK = 7_316_248_551_140_311
_NAME = re.compile(r"batch_archive_(\d{4})(\d{2})\Z")


class Partitions:
    """``ensure`` is cheap when the month is known: it is called before every transaction that archives."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[tuple[int, int]] = set()

    async def ensure(self, now: datetime) -> None:
        """The partition of the month of ``now``."""
        month = (now.year, now.month)
        if month in self._known:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            await _create(connection, *month)
        self._known.add(month)


async def drop_old(connection: Connection, now: datetime) -> list[str]:
    """Drops the partitions that lie more than MONTHS_KEPT months back; their names."""
    rows = await connection.fetch(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'batch_archive'::regclass"
    )
    old = []
    for name in (row["relname"] for row in rows):
        match = _NAME.fullmatch(name)
        if match and (now.year - int(match[1])) * 12 + now.month - int(match[2]) > MONTHS_KEPT:
            await connection.execute(f'drop table "{name}"')
            old.append(name)
    return old


async def _create(connection: Connection, year: int, month: int) -> None:
    """DDL takes no parameters; the numbers are our own."""
    first = datetime(year, month, 1, tzinfo=UTC)
    past = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    await connection.execute(
        f"create table if not exists batch_archive_{year:04}{month:02} partition of batch_archive"
        f" for values from ('{first.isoformat()}') to ('{past.isoformat()}')"
    )
