"""Partitions: made before they are needed, dropped when they are too old. The archive by month,
single events by day.

A partition is made on its own and then attached, and detached concurrently before it is dropped:
neither waits for whoever reads the table for long (an audit, a copy of the database), so nobody who
writes waits behind it. DDL takes no parameters; the numbers that are put into it are our own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import asyncpg
import structlog

from services.billing.store import MAINTENANCE_SECONDS, Reader
from shared.errors import DatabaseAway
from shared.storage.pool import Pool

log = structlog.get_logger()
MONTHS_KEPT: Final = 13
DAYS_KEPT: Final = 36
"""The late window of 35 days, and the day that it begins in."""
DAYS_AHEAD: Final = 4
_MONTHS_AHEAD: Final = timedelta(days=7)
_BRIEFLY: Final = "lock_timeout = '1500ms'"
_BLOCKS: Final = 4096
"""Of a day that are added up in one transaction: some 250,000 events, about a second."""
_NAME = re.compile(r"batch_archive_(\d{4})(\d{2})\Z")
_DAY_NAME = re.compile(r"requests_(\d+)\Z")
_TABLES: Final = """
select c.relname, i.inhrelid is not null as attached, coalesce(i.inhdetachpending, false) as pending
from pg_class c left join pg_inherits i on i.inhrelid = c.oid
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
  and starts_with(c.relname, $1 || '_')
order by c.relname
"""


class _PartitionTable(NamedTuple):
    """``pending``: its detachment was begun and not ended."""

    name: str
    attached: bool
    pending: bool


class ArchiveMonths:
    """The months of the archive. ``ensure`` is cheap when the month is known: it is called before
    every transaction that archives."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[tuple[int, int]] = set()

    async def ensure(self, now: datetime) -> None:
        """The partition of the month of ``now``."""
        month = (now.year, now.month)
        if month not in self._known:
            first, past = _month_range(*month)
            bounds = f"from ('{first.isoformat()}') to ('{past.isoformat()}')"
            await _attach_missing(
                self._pool, "batch_archive", {f"batch_archive_{month[0]:04}{month[1]:02}": bounds}
            )
            self._known.add(month)

    async def ensure_ahead(self, now: datetime) -> None:
        for at in (now, now + _MONTHS_AHEAD):
            await self.ensure(at)


class RequestDays:
    """The same for the days of single events (days of Unix time)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[int] = set()

    async def ensure(self, days: Iterable[int]) -> None:
        missing = set(days) - self._known
        if missing:
            await _attach_missing(
                self._pool,
                "requests",
                {f"requests_{day}": f"in ({day})" for day in sorted(missing)},
            )
            self._known.update(missing)

    async def ensure_ahead(self, now: datetime) -> None:
        """A day that was dropped is made anew when it is asked for."""
        today = int(now.timestamp()) // 86_400
        self._known = {day for day in self._known if day >= today - DAYS_KEPT}
        await self.ensure(range(today, today + DAYS_AHEAD))


def archive_kept_from(now: datetime) -> datetime:
    """The start of the oldest month that drop_old() leaves."""
    month = now.year * 12 + now.month - 1 - MONTHS_KEPT
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


async def drop_old_months(pool: Pool, now: datetime) -> list[str]:
    """Drops the archive's partitions that lie more than MONTHS_KEPT months back; their names."""
    old = []
    for table in await _list_partitions(pool, "batch_archive"):
        match = _NAME.fullmatch(table.name)
        if match and datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC) < archive_kept_from(now):
            old += await _drop_partition(pool, "batch_archive", table)
    return old


async def drop_old_days(pool: Pool, now: datetime) -> list[str]:
    """Drops the days of single events that are past the late window, after what they added up to is
    kept."""
    today, old = int(now.timestamp()) // 86_400, []
    for table in await _list_partitions(pool, "requests"):
        match = _DAY_NAME.fullmatch(table.name)
        if match and int(match[1]) < today - DAYS_KEPT:
            if table.attached and not table.pending:
                await _add_up_day(pool, table.name, int(match[1]))
            old += await _drop_partition(pool, "requests", table)
    return old


async def _add_up_day(pool: Pool, name: str, day: int) -> None:
    """Some blocks at a time: nobody writes to the day any more. It counts from the moment that all
    is added up."""
    await pool.execute(
        "insert into request_days_kept (day) values ($1) on conflict do nothing", day
    )
    size = await pool.fetchval(
        "select pg_relation_size($1::regclass) / current_setting('block_size')::int", name
    )
    first = await pool.fetchval(
        "select blocks from request_days_kept where day = $1 and not done", day
    )
    for start in () if first is None else range(first, size, _BLOCKS):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "insert into request_days as d select domain, (at / 60000000)::int, node, "
                "count(*), sum(bytes)"
                f" from {name} where ctid >= '({start},0)' and ctid < '({start + _BLOCKS},0)' "
                "group by 1, 2, 3"
                " on conflict (domain, minute, node) do update"
                " set requests = d.requests + excluded.requests, bytes = d.bytes + excluded.bytes",
                timeout=MAINTENANCE_SECONDS,
            )
            await connection.execute(
                "update request_days_kept set blocks = $2 where day = $1", day, start + _BLOCKS
            )
    await pool.execute("update request_days_kept set done = true where day = $1", day)


async def _attach_missing(pool: Pool, parent: str, wanted: dict[str, str]) -> None:
    """Makes those of ``wanted`` (bounds by name) that are not there; DatabaseAway when it would
    have to wait."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"set local {_BRIEFLY}")
            await connection.execute("lock table catalogue_gate in exclusive mode")
            there = {table.name for table in await _list_partitions(connection, parent)}
            for name in wanted.keys() - there:
                await connection.execute(f"create table {name} (like {parent} including all)")
                await connection.execute(
                    f"alter table {parent} attach partition {name} for values {wanted[name]}"
                )
    except asyncpg.LockNotAvailableError:
        raise DatabaseAway(
            f"a partition of {parent} cannot be made now: somebody holds the table"
        ) from None


async def _drop_partition(pool: Pool, parent: str, table: _PartitionTable) -> list[str]:
    """Its name, or nothing where somebody reads for long, or drops it too: then the next round goes
    on from here."""
    try:
        async with pool.acquire() as connection:
            await connection.execute(f"set {_BRIEFLY}")  # until the connection is given back
            if table.attached:
                how = "finalize" if table.pending else "concurrently"
                await connection.execute(
                    f"alter table {parent} detach partition {table.name} {how}"
                )
            await connection.execute(f"drop table {table.name}")
    except (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.UndefinedTableError):
        log.info("partition.drop_later", partition=table.name)
        return []
    return [table.name]


async def _list_partitions(connection: Reader, parent: str) -> list[_PartitionTable]:
    return [_PartitionTable(*row) for row in await connection.fetch(_TABLES, parent)]


def _month_range(year: int, month: int) -> tuple[datetime, datetime]:
    return datetime(year, month, 1, tzinfo=UTC), datetime(
        year + month // 12, month % 12 + 1, 1, tzinfo=UTC
    )
