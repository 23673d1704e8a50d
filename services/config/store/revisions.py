"""The global revision: numbers are drawn, never given back, and only in the cluster where they are
known to be new."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import DatabaseAway
from shared.storage.pool import Connection, Pool

_HOME = (
    "(select system_identifier::text from pg_control_system()) as system_identifier,"
    " substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline"
)


@dataclass(frozen=True)
class Home:
    """A PostgreSQL cluster on one timeline; a restore or a failover makes another, where numbers
    may be lost."""

    system_identifier: str
    timeline: str


async def draw(connection: Connection, count: int, home: Home) -> list[int]:
    """The next ``count`` numbers; DatabaseAway when this is not ``home`` any more: ask the fleet
    first."""
    rows = await connection.fetch(
        "select nextval('revision') as number, h.* from generate_series(1, $1), (select "
        f"{_HOME}) h",
        count,
    )
    if rows and Home(rows[0]["system_identifier"], rows[0]["timeline"]) != home:
        raise DatabaseAway("PostgreSQL changed its system identifier or timeline")
    return [row["number"] for row in rows]


async def current_home(pool: Pool) -> Home:
    row = await pool.fetchrow(f"select {_HOME}")
    if row is None:
        raise DatabaseAway("PostgreSQL does not say which cluster it is")
    return Home(row["system_identifier"], row["timeline"])


async def kept_home(pool: Pool) -> Home | None:
    """Where the sequence was last checked; None in a fresh database."""
    row = await pool.fetchrow("select system_identifier, timeline from revision_home")
    return None if row is None else Home(row["system_identifier"], row["timeline"])


async def keep_home(pool: Pool, home: Home) -> None:
    await pool.execute(
        "insert into revision_home (system_identifier, timeline) values ($1, $2) on conflict "
        "(only_row) do update"
        " set system_identifier = excluded.system_identifier, timeline = excluded.timeline",
        home.system_identifier,
        home.timeline,
    )


async def move_past(pool: Pool, revision: int) -> int:
    """No later number is at or below ``revision``, nor below one in the table; the last number
    given or skipped.

    ALTER SEQUENCE locks out every nextval() until the end of the transaction: nothing is drawn in
    between."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("alter sequence revision increment by 1")
        last = int(
            await connection.fetchval(
                "select greatest((select case when is_called then last_value else 0 end from "
                "revision),"
                " (select coalesce(max(revision), 0) from domains))"
            )
        )
        if revision > last:
            last = revision
        await connection.execute(f"alter sequence revision restart with {last + 1:d}")
        return last
