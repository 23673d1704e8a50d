"""The rights of the role that finance reads with."""

from __future__ import annotations

from typing import Final

from shared.storage.pool import Pool

ROLE: Final = "edgetls_finance"
_GRANT: Final = f"""
do $$ begin
    if exists (select from pg_roles where rolname = '{ROLE}') then
        execute format('grant connect on database %I to {ROLE}', current_database());
        grant usage on schema finance to {ROLE};
        grant select on all tables in schema finance to {ROLE};
    end if;
end $$
"""


async def grant_views(pool: Pool) -> None:
    """Grant select on the views of the schema ``finance``, where the role exists.

    The administrator of PostgreSQL creates the role (docs/finance.md): a service has no right to.
    The lock is there because two grants at once fail on the same catalogue row."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table catalogue_gate in exclusive mode")
        await connection.execute(_GRANT)
