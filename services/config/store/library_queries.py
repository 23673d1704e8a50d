"""Queries about libraries, roots and commands; pages are by key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.config.domain.model import LibraryEntry
from services.config.store.history import FINDINGS
from services.config.store.library import COLUMNS, PAIRS_OF_ENTRIES, ROOTS, build_entries
from shared.contracts.certificates import CommandResult, RootView, Use
from shared.storage.pool import Pool

_MAX_PLACES = 500
_ENTRIES = f"""
select {COLUMNS}, (
    select count(*) from pairs p where p.entry = c.entry and p.slot = 'live' and p.position = 0
) as domains
from certificates c
where account = $1 and name > $2 and ($3::text is null or name = $3) order by name limit $4
"""
_USES = """
select distinct on (p.domain) p.domain, p.slot = 'live' as live,
    p.submission_id = c.submission_id as current
from certificates c join pairs p on p.entry = c.entry and p.position = 0
where c.key = $1 and p.domain > $2
order by p.domain, p.slot limit $3
"""
_RESULTS = """
select * from history
where command_id = $1 and ($2::text is null or account = $2) and id > $3 order by id limit $4
"""
_WAITING = """
select t.key as place from inbox i join inbox_targets t using (stream, incarnation, sequence)
    where i.message_id = $1
union select domain from deployments where command_id = $1
union select name from domains where pending_id = $1
union select key from certificates where pending_id = $1
order by 1 limit $2
"""


@dataclass(frozen=True)
class EntryUse:
    """An entry and how many domains it serves."""

    entry: LibraryEntry
    domains: int


async def load_library(
    pool: Pool, account: str, *, only: str | None = None, after: str = "", limit: int
) -> list[EntryUse]:
    """Return an account's entries in order of their name; ``only``: the one of this name."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connection.fetch(_ENTRIES, account, after, only, limit)
        pairs = await connection.fetch(PAIRS_OF_ENTRIES, [row["key"] for row in rows])
    entries = build_entries(rows, pairs)
    return [EntryUse(entries[row["key"]], row["domains"]) for row in rows]


async def load_uses(pool: Pool, key: str, after: str, limit: int) -> list[Use]:
    """Return the domains that use an entry, in order of their name."""
    rows = await pool.fetch(_USES, key, after, limit)
    return [Use(domain=row["domain"], current=row["current"], live=row["live"]) for row in rows]


async def load_account_roots(pool: Pool, account: str) -> tuple[list[RootView], datetime | None]:
    """Return an account's own roots and when they were set (None: never)."""
    row = await pool.fetchrow("select roots, set_at from roots where account = $1", account)
    if row is None:
        return [], None
    return ROOTS.validate_python(row["roots"]), row["set_at"]


async def load_results(
    pool: Pool, command_id: str, account: str | None, after: int, limit: int
) -> list[tuple[int, CommandResult]]:
    """Return the ends of a command with their number, in the order that they came."""
    rows = await pool.fetch(_RESULTS, command_id, account, after, limit)
    return [(row["id"], _build_result(row)) for row in rows]


async def load_waiting_keys(pool: Pool, command_id: str) -> list[str]:
    """Return the keys where a command has not come to its end: stored and not run, being judged, or
    to be followed."""
    rows = await pool.fetch(_WAITING, command_id, _MAX_PLACES)
    return [row["place"] for row in rows]


def _build_result(row: asyncpg.Record) -> CommandResult:
    return CommandResult(
        command_id=row["command_id"],
        command=row["command"],
        domain=row["domain"] or None,
        certificate=row["certificate"],
        account=row["account"],
        outcome=row["outcome"],
        codes=row["codes"],
        revision=row["revision"],
        at=row["settled_at"],
        findings=FINDINGS.validate_json(row["findings"]),
    )
