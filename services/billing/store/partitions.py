"""Partitions: the archive by month, single events by day.

They are created before they are needed and dropped when they are too old. A partition is created
on its own and then attached, and detached concurrently before it is dropped. So neither waits for
a long reader of the table (an audit, a copy of the database), and no writer waits behind it. DDL
takes no parameters; the numbers that are put into it are billing's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import asyncpg
import structlog

from services.billing.domain.units import UnixDay, day_of
from services.billing.store import MAINTENANCE_SECONDS, Reader
from shared.errors import DatabaseAway
from shared.storage.pool import Pool

log = structlog.get_logger()
MONTHS_KEPT: Final = 13
DAYS_KEPT: Final = 36
"""The late window of 35 days, and the day that it begins in."""
DAYS_AHEAD: Final = 4
_MONTHS_AHEAD: Final = timedelta(days=7)
_SHORT_LOCK_TIMEOUT: Final = "lock_timeout = '1500ms'"
_BLOCKS: Final = 4096
"""Blocks of a day that are added up in one transaction: some 250,000 events, about a second."""
_MONTH_NAME: Final = re.compile(r"batch_archive_(\d{4})(\d{2})\Z")
_DAY_NAME: Final = re.compile(r"requests_(\d+)\Z")
_TABLES: Final = """
select c.relname as name, i.inhrelid is not null as attached,
    coalesce(i.inhdetachpending, false) as pending
from pg_class c left join pg_inherits i on i.inhrelid = c.oid
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
    and starts_with(c.relname, $1 || '_')
order by c.relname
"""
_ADD_UP_BLOCKS: Final = """
insert into request_days as d
select domain, (at / 60000000)::int, node, count(*), sum(bytes) from {name}
where ctid >= '({start},0)' and ctid < '({end},0)' group by 1, 2, 3
on conflict (domain, minute, node)
do update set requests = d.requests + excluded.requests, bytes = d.bytes + excluded.bytes
"""
_BEGIN_DAY: Final = "insert into request_days_kept (day) values ($1) on conflict do nothing"
_SIZE: Final = "select pg_relation_size($1::regclass) / current_setting('block_size')::int"
_NEXT_BLOCK: Final = "select blocks from request_days_kept where day = $1 and not done"
_BLOCKS_DONE: Final = "update request_days_kept set blocks = $2 where day = $1"
_END_DAY: Final = "update request_days_kept set done = true where day = $1"


class _PartitionTable(NamedTuple):
    """A partition, attached or not. ``pending``: its detachment was begun and not ended."""

    name: str
    attached: bool
    pending: bool


class ArchiveMonths:
    """The partitions of the archive, one for each month.

    ``ensure`` costs nothing for a known month: every transaction that archives calls it before."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[tuple[int, int]] = set()

    async def ensure(self, now: datetime) -> None:
        """Create the partition of the month of ``now`` if it is not there."""
        month = (now.year, now.month)
        if month in self._known:
            return
        start, end = _month_range(*month)
        bounds = f"from ('{start.isoformat()}') to ('{end.isoformat()}')"
        await _attach_missing(self._pool, "batch_archive", {f"batch_archive_{now:%Y%m}": bounds})
        self._known.add(month)

    async def ensure_ahead(self, now: datetime) -> None:
        """Create the partitions that are needed within the next days."""
        for at in (now, now + _MONTHS_AHEAD):
            await self.ensure(at)


class RequestDays:
    """The partitions of single events, one for each day."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[UnixDay] = set()

    async def ensure(self, days: Iterable[UnixDay]) -> None:
        """Create the partitions of ``days`` that are not there."""
        missing = set(days) - self._known
        if missing:
            wanted = {f"requests_{day}": f"in ({day})" for day in sorted(missing)}
            await _attach_missing(self._pool, "requests", wanted)
            self._known.update(missing)

    async def ensure_ahead(self, now: datetime) -> None:
        """Create the partitions of the next days. A day that was dropped is created anew when it is
        needed again."""
        today = day_of(now)
        self._known = {day for day in self._known if day >= today - DAYS_KEPT}
        await self.ensure([UnixDay(today + ahead) for ahead in range(DAYS_AHEAD)])


def archive_kept_from(now: datetime) -> datetime:
    """Return the start of the oldest month that drop_old_months() leaves."""
    month = now.year * 12 + now.month - 1 - MONTHS_KEPT
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


async def drop_old_months(pool: Pool, now: datetime) -> list[str]:
    """Drop the archive's partitions of more than MONTHS_KEPT months ago; return their names."""
    dropped = []
    for table in await _list_partitions(pool, "batch_archive"):
        match = _MONTH_NAME.fullmatch(table.name)
        if match is None:
            continue
        month = datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)
        if month < archive_kept_from(now):
            dropped += await _drop_partition(pool, "batch_archive", table)
    return dropped


async def drop_old_days(pool: Pool, now: datetime) -> list[str]:
    """Drop the days of single events that are past the late window; return their names.

    The sums of each day are kept before it is dropped."""
    oldest_kept = day_of(now) - DAYS_KEPT
    dropped = []
    for table in await _list_partitions(pool, "requests"):
        match = _DAY_NAME.fullmatch(table.name)
        if match is None or int(match[1]) >= oldest_kept:
            continue
        if table.attached and not table.pending:
            await _add_up_day(pool, table.name, UnixDay(int(match[1])))
        dropped += await _drop_partition(pool, "requests", table)
    return dropped


async def _add_up_day(pool: Pool, name: str, day: UnixDay) -> None:
    """Keep the sums of a day in request_days.

    Some blocks at a time: the day is past the late window, so no event is added to it any more. A
    process that dies leaves its place to the next one. The sums count from the moment that the
    whole day is added up."""
    await pool.execute(_BEGIN_DAY, day)
    size = await pool.fetchval(_SIZE, name)
    next_block = await pool.fetchval(_NEXT_BLOCK, day)
    if next_block is not None:
        for start in range(next_block, size, _BLOCKS):
            end = start + _BLOCKS
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    _ADD_UP_BLOCKS.format(name=name, start=start, end=end),
                    timeout=MAINTENANCE_SECONDS,
                )
                await connection.execute(_BLOCKS_DONE, day, end)
    await pool.execute(_END_DAY, day)


async def _attach_missing(pool: Pool, parent: str, wanted: dict[str, str]) -> None:
    """Create those partitions of ``wanted`` (bounds by name) that are not there.

    DatabaseAway when that would have to wait for a lock."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"set local {_SHORT_LOCK_TIMEOUT}")
            await connection.execute("lock table catalogue_gate in exclusive mode")
            there = {table.name for table in await _list_partitions(connection, parent)}
            for name in wanted.keys() - there:
                await connection.execute(f"create table {name} (like {parent} including all)")
                await connection.execute(
                    f"alter table {parent} attach partition {name} for values {wanted[name]}"
                )
    except asyncpg.LockNotAvailableError:
        raise DatabaseAway(
            f"a partition of {parent} cannot be created now: another session holds the table"
        ) from None


async def _drop_partition(pool: Pool, parent: str, table: _PartitionTable) -> list[str]:
    """Drop a partition; return its name, or nothing when it cannot be dropped now.

    That is when another session reads it for long, or drops it too. The next round goes on from
    here."""
    try:
        async with pool.acquire() as connection:
            # Until the connection is given back to the pool.
            await connection.execute(f"set {_SHORT_LOCK_TIMEOUT}")
            if table.attached:
                how = "finalize" if table.pending else "concurrently"
                await connection.execute(
                    f"alter table {parent} detach partition {table.name} {how}"
                )
            await connection.execute(f"drop table {table.name}")
    except (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.UndefinedTableError):
        log.info("partition.drop_postponed", partition=table.name)
        return []
    return [table.name]


async def _list_partitions(connection: Reader, parent: str) -> list[_PartitionTable]:
    return [_PartitionTable(**dict(row)) for row in await connection.fetch(_TABLES, parent)]


def _month_range(year: int, month: int) -> tuple[datetime, datetime]:
    start = datetime(year, month, 1, tzinfo=UTC)
    return start, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
