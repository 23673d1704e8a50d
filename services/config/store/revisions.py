"""The global revision: numbers are drawn, never given back, and only in the cluster where they are
known to be new."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import DatabaseAway
from shared.storage.pool import Connection, Pool

_TIMELINE = """
(select system_identifier::text from pg_control_system()) as system_identifier,
substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline
"""
# Numbers and timeline in one statement: they must be of the same database.
_DRAW = f"""
select nextval('revision') as number, h.* from generate_series(1, $1), (select {_TIMELINE}) h
"""
_KEEP = """
insert into revision_home (system_identifier, timeline) values ($1, $2)
on conflict (only_row) do update
    set system_identifier = excluded.system_identifier, timeline = excluded.timeline
"""
_HIGHEST = """
select greatest(
    (select case when is_called then last_value else 0 end from revision),
    (select coalesce(max(revision), 0) from domains))
"""


@dataclass(frozen=True)
class DatabaseTimeline:
    """A PostgreSQL cluster on one timeline. A restore or a failover makes another one, where
    numbers may be lost."""

    system_identifier: str
    timeline: str


async def draw_revisions(
    connection: Connection, count: int, timeline: DatabaseTimeline
) -> list[int]:
    """Return the next ``count`` numbers, rising.

    DatabaseAway when this is not ``timeline`` any more: the fleet must be asked first."""
    rows = await connection.fetch(_DRAW, count)
    if rows:
        current = DatabaseTimeline(rows[0]["system_identifier"], rows[0]["timeline"])
        if current != timeline:
            raise DatabaseAway("PostgreSQL changed its system identifier or timeline")
    return [row["number"] for row in rows]


async def load_current_timeline(pool: Pool) -> DatabaseTimeline:
    """Return the cluster and timeline that the pool is connected to."""
    row = await pool.fetchrow(f"select {_TIMELINE}")
    if row is None:
        raise DatabaseAway("PostgreSQL does not report its cluster")
    return DatabaseTimeline(row["system_identifier"], row["timeline"])


async def load_checked_timeline(pool: Pool) -> DatabaseTimeline | None:
    """Return where the sequence was last checked; None in a fresh database."""
    row = await pool.fetchrow("select system_identifier, timeline from revision_home")
    if row is None:
        return None
    return DatabaseTimeline(row["system_identifier"], row["timeline"])


async def save_checked_timeline(pool: Pool, timeline: DatabaseTimeline) -> None:
    """Record where the sequence was checked."""
    await pool.execute(_KEEP, timeline.system_identifier, timeline.timeline)


async def move_past(pool: Pool, revision: int) -> int:
    """Move the sequence past ``revision`` and past every revision in the table.

    Return the last number given or skipped. ALTER SEQUENCE locks out every nextval() until the
    transaction ends, so nothing is drawn in between."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("alter sequence revision increment by 1")
        highest = max(int(await connection.fetchval(_HIGHEST)), revision)
        await connection.execute(f"alter sequence revision restart with {highest + 1:d}")
        return highest
