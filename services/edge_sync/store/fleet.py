"""SQL of the tables ``nodes``, ``epochs`` and ``trust``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from services.edge_sync.domain.fleet import EpochRecord, NodeRecord
from shared.messages import Outgoing
from shared.storage.outbox import enqueue
from shared.storage.pool import Connection, Pool


class LastSeen(NamedTuple):
    """When a node was last heard, and the sequence that it reported."""

    node: str
    at: datetime
    sequence: int


class FleetStore:
    """Reads and writes nodes, epochs and the trust document."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction; it is committed at the end of the block."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection

    async def check_connection(self) -> None:
        """Raise unless the database answers within 2 s."""
        await self._pool.execute("select 1", timeout=2)

    async def load_nodes(self) -> dict[str, NodeRecord]:
        """Return every node by name, also removed ones."""
        rows = await self._pool.fetch("select * from nodes order by node")
        return {row["node"]: NodeRecord(**dict(row)) for row in rows}

    async def lock_node(self, connection: Connection, node: str) -> NodeRecord | None:
        """Return one node, its row locked until the transaction ends."""
        row = await connection.fetchrow("select * from nodes where node = $1 for update", node)
        return None if row is None else NodeRecord(**dict(row))

    async def save_node(
        self, connection: Connection, node: NodeRecord, events: Sequence[Outgoing]
    ) -> None:
        """Insert or replace a node, and put its events into the outbox."""
        await connection.execute(
            "insert into nodes (node, public_key, nkey, labels, enrolment, issued_at,"
            " enrolled_at, drained, removed)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (node) do update set"
            " public_key = $2, nkey = $3, labels = $4, enrolment = $5, issued_at = $6,"
            " enrolled_at = $7, drained = $8, removed = $9",
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

    async def save_last_seen(self, rows: Sequence[LastSeen]) -> None:
        """Write when nodes were last seen."""
        await self._pool.executemany(
            "update nodes set last_seen = $2, sequence = $3 where node = $1", rows
        )

    async def load_epochs(self) -> dict[int, EpochRecord]:
        """Return every epoch by number."""
        rows = await self._pool.fetch("select * from epochs order by epoch")
        return {row["epoch"]: EpochRecord(**dict(row)) for row in rows}

    async def save_epoch(self, epoch: EpochRecord) -> None:
        """Insert an epoch; one that is stored stays as it is."""
        await self._pool.execute(
            "insert into epochs (epoch, public_key, key, issued_at, started_at)"
            " values ($1, $2, $3, $4, $5) on conflict (epoch) do nothing",
            epoch.epoch,
            epoch.public_key,
            epoch.key,
            epoch.issued_at,
            epoch.started_at,
        )

    async def save_sealing(self, epoch: int, sealing: bytes) -> None:
        """Note that pairs may be sealed to an epoch. ``sealing``: the Signed SealingEpoch."""
        await self._pool.execute("update epochs set sealing = $2 where epoch = $1", epoch, sealing)

    async def load_trust(self) -> bytes | None:
        """Return the Signed trust document with the highest serial."""
        document: bytes | None = await self._pool.fetchval(
            "select document from trust order by serial desc limit 1"
        )
        return document

    async def save_trust(self, serial: int, document: bytes, issued_at: datetime) -> bool:
        """Insert a trust document. Return False when one of this or a higher serial is stored."""
        saved = await self._pool.fetchval(
            "insert into trust (serial, document, issued_at)"
            " select $1, $2, $3 where not exists (select 1 from trust where serial >= $1)"
            " returning serial",
            serial,
            document,
            issued_at,
        )
        return saved is not None
