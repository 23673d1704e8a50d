"""Queries about domains, history and bundles; pages are by key. No key in clear is stored, so none
is returned."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from services.config.domain.model import Domain
from services.config.store import accounts
from services.config.store.domains import COLUMNS, PAIRS_OF_DOMAINS, build_domains
from services.config.store.history import FINDINGS
from shared import catalogue
from shared.contracts.accounts import Suspension
from shared.contracts.domains import HistoryEntry
from shared.contracts.edge import BundlePage
from shared.contracts.judging import JudgedPair
from shared.contracts.queries import SealedPair, SubmissionView
from shared.storage.pool import Pool

_SUBMISSIONS = (catalogue.CMD_CERTIFICATE_SUBMIT, catalogue.CMD_CERTIFICATE_STORE)
# Asked first: a submission that ends between the two questions is in the history then.
_PENDING = """
select name as domain, null as certificate, account, null as outcome, null::bigint as revision,
    '[]' as findings
from domains where pending_id = $1
union all
select '', name, account, null, null, '[]' from certificates where pending_id = $1
"""
_JUDGED = """
select * from history where command_id = $1 and command = any($2::text[])
order by domain limit 1
"""
_HISTORY = """
select * from history
where domain = $1 and ($2::text is null or account = $2) and ($3::bigint is null or id < $3)
order by id desc limit $4
"""
# The live and the previous certificate of a domain may hold the same pair: it is sealed anew once.
_SEALED = """
(select distinct on (p.domain, p.pair_id) p.domain as key, p.pair_id, d.account, null as name,
    p.pair
from pairs p join domains d on d.name = p.domain
where p.epoch < $1 and (p.domain, p.pair_id) > ($2::text, $3::text)
order by p.domain, p.pair_id limit $4)
union all
(select p.key, p.pair_id, c.account, c.name, p.pair
from certificate_pairs p join certificates c using (key)
where p.epoch < $1 and (p.key, p.pair_id) > ($2::text, $3::text)
order by p.key, p.pair_id limit $4)
order by key, pair_id limit $4
"""


@dataclass(frozen=True)
class ShownDomain:
    """A domain, the revision that every node serves (None: not known yet), and the reason of its
    suspension."""

    domain: Domain
    live_revision: int | None
    suspension: Suspension | None


async def load_domain(pool: Pool, name: str) -> ShownDomain | None:
    """Return a domain, its tombstone too; None when it was never registered."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connection.fetch(
            f"select {COLUMNS}, live_revision from domains where name = $1", name
        )
        if not rows:
            return None
        pairs = await connection.fetch(PAIRS_OF_DOMAINS, [name])
        domain = build_domains(rows, pairs)[0]
        suspensions = await accounts.load_suspensions(connection, [domain.account])
    return ShownDomain(domain, rows[0]["live_revision"], suspensions.get(domain.account))


async def load_history(
    pool: Pool, domain: str, account: str | None, before: int | None, limit: int
) -> list[asyncpg.Record]:
    """Return rows of history, the newest first, of one account or of all.

    ``domain`` empty: the rows that belong to no domain."""
    return await pool.fetch(_HISTORY, domain, account, before, limit)


def history_entry(row: asyncpg.Record) -> HistoryEntry:
    """Return a row of history as it is shown."""
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


async def load_submission(pool: Pool, submission_id: str) -> SubmissionView | None:
    """Return a submission; None where it is unknown, or waits for its turn.

    The end of a pair in the library comes before the ends on the domains that follow it."""
    row = await pool.fetchrow(_PENDING, submission_id)
    if row is None:
        row = await pool.fetchrow(_JUDGED, submission_id, _SUBMISSIONS)
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


async def load_bundle(pool: Pool, name: str) -> bytes | None:
    """Return the exact bytes that edge_sync signs."""
    bundle = await pool.fetchval("select bundle from domains where name = $1", name)
    return None if bundle is None else bytes(bundle)


async def load_bundle_page(pool: Pool, after: str, limit: int) -> list[BundlePage]:
    """Return what the fleet should hold, tombstones included, in order of the domain."""
    rows = await pool.fetch(
        "select name, revision, bundle_hash from domains where name > $1 order by name limit $2",
        after,
        limit,
    )
    page = []
    for row in rows:
        page.append(
            BundlePage(domain=row["name"], revision=row["revision"], hash=row["bundle_hash"])
        )
    return page


async def load_sealed_pairs(
    pool: Pool, below: int, after: tuple[str, str], limit: int
) -> list[tuple[str, SealedPair]]:
    """Return kept pairs sealed to an epoch below ``below``, in order of (key, pair id), each with
    its key: the domain or the library entry's.

    Kept pairs are live, previous, or in the library."""
    rows = await pool.fetch(_SEALED, below, *after, limit)
    found = []
    for row in rows:
        pair = JudgedPair.model_validate_json(row["pair"])
        sealed = SealedPair(
            domain=None if row["name"] else row["key"],
            certificate=row["name"],
            account=row["account"],
            pair_id=pair.pair_id,
            leaf_fingerprint=pair.leaf_fingerprint,
            sealed_key=pair.sealed_key,
        )
        found.append((row["key"], sealed))
    return found
