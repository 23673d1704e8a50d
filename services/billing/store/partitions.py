"""Partitions: made before they are needed, dropped when they are too old. The archive by month, single events by day.

DDL takes no parameters; the numbers that are put into it are our own."""

# ruff: noqa: S608 - names and numbers of this module
from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from shared.storage.pool import Connection, Pool

MONTHS_KEPT: Final = 13
DAYS_KEPT: Final = 36
"""The late window of 35 days, and the day that it begins in."""
_NAME = re.compile(r"batch_archive_(\d{4})(\d{2})\Z")
_DAY_NAME = re.compile(r"requests_(\d+)\Z")
_CHILDREN: Final = (
    "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = $1::text::regclass"
)


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
            await connection.execute("lock table catalogue_gate in exclusive mode")
            await _create(connection, *month)
        self._known.add(month)


class Days:
    """The same for the days of single events (days of Unix time)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[int] = set()

    async def ensure(self, days: Iterable[int]) -> None:
        missing = sorted(set(days) - self._known)
        if not missing:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("lock table catalogue_gate in exclusive mode")
            there = {row["relname"] for row in await connection.fetch(_CHILDREN, "requests")}
            for day in missing:
                if f"requests_{day}" not in there:
                    await connection.execute(f"create table requests_{day} partition of requests for values in ({day})")
        self._known.update(missing)

    def forget(self, before: int) -> None:
        """A day that was dropped is made anew when it is asked for."""
        self._known = {day for day in self._known if day >= before}


async def drop_old(connection: Connection, now: datetime) -> list[str]:
    """Drops the archive's partitions that lie more than MONTHS_KEPT months back; their names."""
    old = []
    for name in [row["relname"] for row in await connection.fetch(_CHILDREN, "batch_archive")]:
        match = _NAME.fullmatch(name)
        if match and (now.year - int(match[1])) * 12 + now.month - int(match[2]) > MONTHS_KEPT:
            await connection.execute(f'drop table "{name}"')
            old.append(name)
    return old


async def drop_days(connection: Connection, now: datetime) -> list[str]:
    """Drops the days of single events that are past the late window, after what they added up to is kept."""
    today, old = int(now.timestamp()) // 86_400, []
    for name in sorted(row["relname"] for row in await connection.fetch(_CHILDREN, "requests")):
        match = _DAY_NAME.fullmatch(name)
        if match and int(match[1]) < today - DAYS_KEPT:
            await connection.execute(
                f"insert into request_days select domain, (at / 60000000)::int, node, count(*), sum(bytes)"
                f' from "{name}" group by 1, 2, 3 on conflict do nothing'
            )
            await connection.execute(f'drop table "{name}"')
            old.append(name)
    return old


async def _create(connection: Connection, year: int, month: int) -> None:
    first = datetime(year, month, 1, tzinfo=UTC)
    past = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    await connection.execute(
        f"create table if not exists batch_archive_{year:04}{month:02} partition of batch_archive"
        f" for values from ('{first.isoformat()}') to ('{past.isoformat()}')"
    )
