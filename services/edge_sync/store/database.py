"""All SQL of edge_sync."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg

from services.edge_sync.domain.convergence import Watch
from services.edge_sync.domain.fleet import Epoch, Node
from shared.contracts.domains import DomainChanged
from shared.contracts.edge import Converged, Lagging
from shared.messages import Outgoing
from shared.storage.outbox import enqueue
from shared.storage.pool import Connection, Pool

KEEP_DAYS = 35
"""Longer than EVENTS keeps a change (30 d): one that is delivered again still finds its row."""


class Last(NamedTuple):
    """A domain's last converged revision and the milliseconds to the slowest node."""

    revision: int
    slowest_ms: float


class Store:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection

    async def alive(self) -> None:
        await self._pool.execute("select 1", timeout=2)

    # The fleet

    async def nodes(self) -> dict[str, Node]:
        return {
            row["node"]: _node(row)
            for row in await self._pool.fetch("select * from nodes order by node")
        }

    async def node(self, connection: Connection, node: str) -> Node | None:
        row = await connection.fetchrow("select * from nodes where node = $1 for update", node)
        return None if row is None else _node(row)

    async def save_node(
        self, connection: Connection, node: Node, events: Sequence[Outgoing]
    ) -> None:
        await connection.execute(
            "insert into nodes (node, public_key, nkey, labels, enrolment, issued_at, "
            "enrolled_at, drained, removed)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (node) do update set "
            "public_key = $2, nkey = $3,"
            " labels = $4, enrolment = $5, issued_at = $6, enrolled_at = $7, drained = $8, "
            "removed = $9",
            node.node,
            node.public_key,
            node.nkey,
            node.labels,
            node.enrolment,
            node.issued_at,
            node.enrolled_at,
            node.drained,
            node.removed,
        )
        await enqueue(connection, events)

    async def save_seen(self, rows: Sequence[tuple[str, datetime, int]]) -> None:
        """(node, last seen, sequence)"""
        await self._pool.executemany(
            "update nodes set last_seen = $2, sequence = $3 where node = $1", rows
        )

    async def epochs(self) -> dict[int, Epoch]:
        rows = await self._pool.fetch("select * from epochs order by epoch")
        return {row["epoch"]: Epoch(**dict(row)) for row in rows}

    async def save_epoch(self, connection: Connection, epoch: Epoch) -> None:
        await connection.execute(
            "insert into epochs (epoch, public_key, key, issued_at, started_at) values ($1, "
            "$2, $3, $4, $5)"
            " on conflict (epoch) do nothing",
            epoch.epoch,
            epoch.public_key,
            epoch.key,
            epoch.issued_at,
            epoch.started_at,
        )

    async def save_sealing(self, epoch: int, sealing: bytes) -> None:
        await self._pool.execute("update epochs set sealing = $2 where epoch = $1", epoch, sealing)

    async def trust(self) -> bytes | None:
        """The document with the highest serial, Signed."""
        found: bytes | None = await self._pool.fetchval(
            "select document from trust order by serial desc limit 1"
        )
        return found

    async def save_trust(self, serial: int, document: bytes, issued_at: datetime) -> bool:
        """False when one of this serial or a higher one is kept."""
        done = await self._pool.fetchval(
            "insert into trust (serial, document, issued_at)"
            " select $1, $2, $3 where not exists (select 1 from trust where serial >= $1) "
            "returning serial",
            serial,
            document,
            issued_at,
        )
        return done is not None

    # Convergence

    async def open_watch(self, change: DomainChanged) -> Watch | None:
        """The revision's watch, made at the first delivery; None when it has converged."""
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
        return None if row is None or row["converged_at"] is not None else _watch(row)

    async def close_watch(self, domain: str, revision: int) -> None:
        """Of a revision that can never converge."""
        await self._pool.execute(
            "delete from convergences where domain = $1 and revision = $2 and converged_at is null",
            domain,
            revision,
        )

    async def pending(self) -> list[Watch]:
        rows = await self._pool.fetch(
            "select * from convergences where converged_at is null order by revision"
        )
        return [_watch(row) for row in rows]

    async def save_converged(self, body: Converged, event: Outgoing) -> None:
        """Once a revision: a second call writes and tells nothing."""
        async with self.transaction() as connection:
            first = await connection.fetchval(
                "update convergences set converged_at = clock_timestamp(), nodes = $3, p50_ms "
                "= $4, p99_ms = $5,"
                " slowest = $6, slowest_ms = $7 where domain = $1 and revision = $2 and "
                "converged_at is null"
                " returning true",
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
        """Once a revision."""
        async with self.transaction() as connection:
            first = await connection.fetchval(
                "update convergences set lagging_at = clock_timestamp() where domain = $1 and "
                "revision = $2"
                " and converged_at is null and lagging_at is null returning true",
                body.domain,
                body.revision,
            )
            if first:
                await enqueue(connection, [event])

    async def last_converged(self, domain: str) -> Last | None:
        row = await self._pool.fetchrow(
            "select revision, slowest_ms from convergences where domain = $1 and converged_at "
            "is not null"
            " order by revision desc limit 1",
            domain,
        )
        return None if row is None else Last(row["revision"], row["slowest_ms"])

    async def max_revision(self) -> int:
        return int(await self._pool.fetchval("select coalesce(max(revision), 0) from convergences"))

    async def forget_old(self) -> None:
        """Converged rows past their time, but a domain's last one."""
        await self._pool.execute(
            "delete from convergences c where converged_at < now() - make_interval(days => $1) "
            "and exists"
            " (select 1 from convergences later where later.domain = c.domain and "
            "later.revision > c.revision"
            " and later.converged_at is not null)",
            KEEP_DAYS,
        )


def _node(row: asyncpg.Record) -> Node:
    return Node(**dict(row))


def _watch(row: asyncpg.Record) -> Watch:
    return Watch(
        row["domain"],
        row["account"],
        row["revision"],
        row["command_id"],
        row["submitted_at"],
        lagging=row["lagging_at"] is not None,
    )
