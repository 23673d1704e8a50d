"""SQL of the table ``convergences``: one row for each revision that config announced."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from services.edge_sync.domain.convergence import PendingRevision
from shared.contracts.domains import DomainChanged
from shared.contracts.edge import Converged, Lagging
from shared.messages import Outgoing
from shared.storage.outbox import enqueue
from shared.storage.pool import Pool

KEEP_DAYS = 35
"""Longer than EVENTS keeps a change (30 d): one that is delivered again still finds its row."""


class LastConvergence(NamedTuple):
    """A domain's last converged revision, and the milliseconds to its slowest node."""

    revision: int
    slowest_ms: float


class ConvergenceStore:
    """Reads and writes pending and converged revisions."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open_revision(self, change: DomainChanged) -> PendingRevision | None:
        """Return the revision as pending, inserted at its first delivery. None when it has
        converged."""
        # The update changes nothing: without it a row that exists would not be returned.
        row = await self._pool.fetchrow(
            "insert into convergences (domain, revision, account, command_id, submitted_at)"
            " values ($1, $2, $3, $4, $5)"
            " on conflict (domain, revision) do update set domain = excluded.domain returning *",
            change.domain,
            change.revision,
            change.account,
            change.command_id,
            change.submitted_at,
        )
        if row is None or row["converged_at"] is not None:
            return None
        return _to_pending(row)

    async def delete_revision(self, domain: str, revision: int) -> None:
        """Delete the row of a revision that can never converge."""
        await self._pool.execute(
            "delete from convergences where domain = $1 and revision = $2 and converged_at is null",
            domain,
            revision,
        )

    async def load_pending(self) -> list[PendingRevision]:
        """Return every revision that has not converged."""
        rows = await self._pool.fetch(
            "select * from convergences where converged_at is null order by revision"
        )
        return [_to_pending(row) for row in rows]

    async def save_converged(self, body: Converged, event: Outgoing) -> None:
        """Note that a revision has converged, with its event, in one transaction.

        A second call for the same revision writes and publishes nothing."""
        async with self._pool.acquire() as connection, connection.transaction():
            first = await connection.fetchval(
                "update convergences set converged_at = clock_timestamp(), nodes = $3,"
                " p50_ms = $4, p99_ms = $5, slowest = $6, slowest_ms = $7"
                " where domain = $1 and revision = $2 and converged_at is null returning true",
                body.domain,
                body.revision,
                body.nodes,
                body.p50_ms,
                body.p99_ms,
                body.slowest,
                body.slowest_ms,
            )
            if first:
                await enqueue(connection, [event])

    async def save_lagging(self, body: Lagging, event: Outgoing) -> None:
        """Note that a revision lags, with its event, in one transaction; once for a revision."""
        async with self._pool.acquire() as connection, connection.transaction():
            first = await connection.fetchval(
                "update convergences set lagging_at = clock_timestamp()"
                " where domain = $1 and revision = $2"
                " and converged_at is null and lagging_at is null returning true",
                body.domain,
                body.revision,
            )
            if first:
                await enqueue(connection, [event])

    async def find_last_converged(self, domain: str) -> LastConvergence | None:
        """Return a domain's last converged revision."""
        row = await self._pool.fetchrow(
            "select revision, slowest_ms from convergences"
            " where domain = $1 and converged_at is not null order by revision desc limit 1",
            domain,
        )
        if row is None:
            return None
        return LastConvergence(row["revision"], row["slowest_ms"])

    async def max_revision(self) -> int:
        """Return the highest revision of any row, 0 without rows."""
        return int(await self._pool.fetchval("select coalesce(max(revision), 0) from convergences"))

    async def delete_old(self) -> None:
        """Delete rows that converged over KEEP_DAYS ago, except for each domain's last one."""
        await self._pool.execute(
            "delete from convergences c where converged_at < now() - make_interval(days => $1)"
            " and exists (select 1 from convergences later where later.domain = c.domain"
            " and later.revision > c.revision and later.converged_at is not null)",
            KEEP_DAYS,
        )


def _to_pending(row: asyncpg.Record) -> PendingRevision:
    return PendingRevision(
        domain=row["domain"],
        account=row["account"],
        revision=row["revision"],
        command_id=row["command_id"],
        submitted_at=row["submitted_at"],
        lagging=row["lagging_at"] is not None,
    )
