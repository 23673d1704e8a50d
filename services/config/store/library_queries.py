"""What is asked about libraries, roots and commands; pages are by key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.config.domain.library_entry import Entry
from services.config.store.history import FINDINGS
from services.config.store.library import COLUMNS, ROOTS, assemble
from shared.contracts.certificates import CommandResult, RootView, Use
from shared.storage.pool import Pool

_NAMED = 500


@dataclass(frozen=True)
class Shelved:
    """An entry and how many domains it serves."""

    entry: Entry
    domains: int


async def entries(
    pool: Pool, account: str, *, only: str | None = None, after: str = "", limit: int
) -> list[Shelved]:
    """In order of their name; ``only``: the one of this name."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connection.fetch(
            f"select {COLUMNS}, (select count(*) from pairs p where p.entry = c.entry and "
            "p.slot = 'live'"
            " and p.position = 0) as domains from certificates c where account = $1 and name > $2"
            " and ($3::text is null or name = $3) order by name limit $4",
            account,
            after,
            only,
            limit,
        )
        pairs = await connection.fetch(
            "select key, pair from certificate_pairs where key = any($1::text[]) order by key, "
            "position",
            [row["key"] for row in rows],
        )
    found = assemble(rows, pairs)
    return [Shelved(found[row["key"]], row["domains"]) for row in rows]


async def uses(pool: Pool, key: str, after: str, limit: int) -> list[Use]:
    """In order of the domain."""
    rows = await pool.fetch(
        "select distinct on (p.domain) p.domain, p.slot = 'live' as live, p.submission_id = "
        "c.submission_id as current"
        " from certificates c join pairs p on p.entry = c.entry and p.position = 0 where c.key "
        "= $1 and p.domain > $2"
        " order by p.domain, p.slot limit $3",
        key,
        after,
        limit,
    )
    return [Use(domain=row["domain"], current=row["current"], live=row["live"]) for row in rows]


async def roots(pool: Pool, account: str) -> tuple[list[RootView], datetime | None]:
    row = await pool.fetchrow("select roots, set_at from roots where account = $1", account)
    return (ROOTS.validate_python(row["roots"]), row["set_at"]) if row else ([], None)


async def results(
    pool: Pool, command_id: str, account: str | None, after: int, limit: int
) -> list[tuple[int, CommandResult]]:
    """A command's ends with their number, in the order that they came."""
    rows = await pool.fetch(
        "select * from history where command_id = $1 and ($2::text is null or account = $2) "
        "and id > $3 order by id"
        " limit $4",
        command_id,
        account,
        after,
        limit,
    )
    return [(row["id"], _result(row)) for row in rows]


async def waiting(pool: Pool, command_id: str) -> list[str]:
    """Where a command has not come to its end: stored and not run, being judged, or to be
    followed."""
    rows = await pool.fetch(
        "select t.key as place from inbox i join inbox_targets t using (stream, incarnation, "
        "sequence)"
        " where i.message_id = $1 union select domain from deployments where command_id = $1"
        " union select name from domains where pending_id = $1 union select key from "
        "certificates where pending_id = $1"
        " order by 1 limit $2",
        command_id,
        _NAMED,
    )
    return [row["place"] for row in rows]


def _result(row: asyncpg.Record) -> CommandResult:
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
