"""What is asked about domains. Pages are by key; nothing here returns a key in clear: none is
stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.config.domain.model import Domain
from services.config.store import accounts
from services.config.store.domains import COLUMNS, PAIR_COLUMNS, assemble
from services.config.store.history import FINDINGS
from shared import catalogue
from shared.contracts.accounts import Suspension
from shared.contracts.domains import HistoryEntry
from shared.contracts.edge import BundlePage
from shared.contracts.judging import JudgedPair
from shared.contracts.queries import SealedPair, SubmissionView
from shared.storage.pool import Connection, Pool

_SUBMISSIONS = (catalogue.CMD_CERTIFICATE_SUBMIT, catalogue.CMD_CERTIFICATE_STORE)
# Asked first: what ends between the two questions is in the history then.
_PENDING = """
select name as domain, null as certificate, account, null as outcome, null::bigint as revision,
  '[]' as findings
    from domains where pending_id = $1
union all
select '', name, account, null, null, '[]' from certificates where pending_id = $1
"""
_JUDGED = (
    "select * from history where command_id = $1 and command = any($2::text[]) order by "
    "domain limit 1"
)


@dataclass(frozen=True)
class Seen:
    """A domain, the revision that every node serves (None: not known yet), and why it is
    suspended."""

    domain: Domain
    live_revision: int | None
    suspension: Suspension | None


async def show(pool: Pool, name: str) -> Seen | None:
    """None when it was never registered; its tombstone counts as known."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connection.fetch(
            f"select {COLUMNS}, live_revision from domains where name = $1", name
        )
        found = await _seen(connection, rows)
    return found[0] if found else None


async def history(
    pool: Pool, domain: str, account: str | None, before: int | None, limit: int
) -> list[asyncpg.Record]:
    """Newest first, with ``id``; of one account or of all. ``domain`` empty: what stands under
    none."""
    return await pool.fetch(
        "select * from history where domain = $1 and ($2::text is null or account = $2) and "
        "($3::bigint is null or"
        " id < $3) order by id desc limit $4",
        domain,
        account,
        before,
        limit,
    )


def history_entry(row: asyncpg.Record) -> HistoryEntry:
    return HistoryEntry(
        domain=row["domain"] or None,
        certificate=row["certificate"],
        account=row["account"],
        command_id=row["command_id"],
        command=row["command"],
        source=row["source"],
        outcome=row["outcome"],
        codes=row["codes"],
        revision=row["revision"],
        received_at=row["received_at"],
        settled_at=row["settled_at"],
    )


async def submission(pool: Pool, submission_id: str) -> SubmissionView | None:
    """None where it is unknown, or waits for its turn. A stored pair's own end comes before its
    followers'."""
    row = await pool.fetchrow(_PENDING, submission_id) or await pool.fetchrow(
        _JUDGED, submission_id, _SUBMISSIONS
    )
    if row is None:
        return None
    return SubmissionView(
        submission_id=submission_id,
        domain=row["domain"] or None,
        certificate=row["certificate"],
        account=row["account"],
        outcome=row["outcome"],
        revision=row["revision"],
        findings=FINDINGS.validate_json(row["findings"]),
    )


async def bundle(pool: Pool, name: str) -> bytes | None:
    """The exact bytes that edge_sync signs."""
    found = await pool.fetchval("select bundle from domains where name = $1", name)
    return None if found is None else bytes(found)


async def bundles(pool: Pool, after: str, limit: int) -> list[BundlePage]:
    """What the fleet should hold, tombstones included, in order of the domain."""
    rows = await pool.fetch(
        "select name, revision, bundle_hash from domains where name > $1 order by name limit $2",
        after,
        limit,
    )
    return [
        BundlePage(domain=row["name"], revision=row["revision"], hash=row["bundle_hash"])
        for row in rows
    ]


async def sealed(
    pool: Pool, below: int, after: tuple[str, str], limit: int
) -> list[tuple[str, SealedPair]]:
    """Kept pairs, live, previous and of the library, sealed to an epoch below ``below``, in order
    of (key, pair id); with their key: the domain or the library entry's."""
    rows = await pool.fetch(
        "(select distinct on (p.domain, p.pair_id) p.domain as key, p.pair_id, d.account, null "
        "as name, p.pair"
        " from pairs p join domains d on d.name = p.domain where p.epoch < $1 and (p.domain, "
        "p.pair_id) >"
        " ($2::text, $3::text) order by p.domain, p.pair_id limit $4) union all"
        " (select p.key, p.pair_id, c.account, c.name, p.pair from certificate_pairs p join "
        "certificates c using (key)"
        " where p.epoch < $1 and (p.key, p.pair_id) > ($2::text, $3::text) order by p.key, "
        "p.pair_id limit $4)"
        " order by key, pair_id limit $4",
        below,
        *after,
        limit,
    )
    found = []
    for row in rows:
        pair = JudgedPair.model_validate_json(row["pair"])
        found.append(
            (
                row["key"],
                SealedPair(
                    domain=None if row["name"] else row["key"],
                    certificate=row["name"],
                    account=row["account"],
                    pair_id=pair.pair_id,
                    leaf_fingerprint=pair.leaf_fingerprint,
                    sealed_key=pair.sealed_key,
                ),
            )
        )
    return found


async def _seen(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Seen]:
    pairs = await connection.fetch(
        f"select {PAIR_COLUMNS} from pairs where domain = any($1::text[])"
        " order by domain, slot, position",
        [row["name"] for row in rows],
    )
    live = {row["name"]: row["live_revision"] for row in rows}
    suspended = await accounts.suspensions(connection, sorted({row["account"] for row in rows}))
    return [
        Seen(domain, live[domain.name], suspended.get(domain.account))
        for domain in assemble(rows, pairs)
    ]
