"""What the node says of itself: at once after a proof, and each second. Cumulative: a lost one
costs nothing."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from nats.aio.client import Client

from clients.edge_node import metrics
from clients.edge_node.serving.apply import Applier
from clients.edge_node.sync.feed import Feed
from clients.edge_node.trust import Trusted
from shared import catalogue
from shared.contracts.edge import LogPosition, NodeStatus, Proof

_COALESCE_SECONDS = 0.02
_EVERY_SECONDS = 1.0
_MOST_PROOFS = 1000
_MOST_KEPT = 20_000
_TOLD_TIMES = 3
"""A proof is told at once and in the next two statuses of the second: core messages can be lost."""


class Report:
    """``logs``: the positions in the usage logs. ``add`` proofs as they come; ``run`` while there
    is a connection."""

    def __init__(self, node: str, trusted: Trusted, logs: Callable[[], list[LogPosition]]) -> None:
        self._node, self._trusted, self._logs = node, trusted, logs
        self._fresh: deque[Proof] = deque(maxlen=_MOST_KEPT)
        self._again: deque[tuple[Proof, int]] = deque(maxlen=_MOST_KEPT)
        self._wake = asyncio.Event()
        self.nginx_restarts = 0

    def add(self, proof: Proof) -> None:
        self._fresh.append(proof)
        self._wake.set()

    async def run(self, client: Client, feed: Feed, applier: Applier) -> None:
        """Sends until cancelled; the phase of the second is the node's own, so that a fleet does
        not speak at once."""
        phase = zlib.crc32(self._node.encode()) / 2**32
        next_regular = time.time() // 1 + phase
        while True:
            while next_regular <= time.time():
                next_regular += _EVERY_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_regular - time.time())):
                    await self._wake.wait()
            regular = not self._wake.is_set()
            self._wake.clear()
            if client.is_connected:
                await client.publish(
                    catalogue.EDGE_STATUS.for_node(self._node),
                    self._status(feed, applier, regular).encode(),
                )
                if self._fresh:
                    self._wake.set()
            await asyncio.sleep(_COALESCE_SECONDS)

    def _status(self, feed: Feed, applier: Applier, regular: bool) -> NodeStatus:
        metrics.STALE.set(feed.stale)
        position = feed.position()
        return NodeStatus(
            node=self._node,
            incarnation=position.incarnation,
            sequence=position.sequence,
            root=applier.proven.root(),
            epochs=self._trusted.epochs,
            stale=feed.stale,
            proofs=self._take(regular),
            logs=self._logs(),
            nginx_restarts=self.nginx_restarts,
            time=datetime.now(UTC),
        )

    def _take(self, regular: bool) -> list[Proof]:
        proofs = [self._fresh.popleft() for _ in range(min(_MOST_PROOFS, len(self._fresh)))]
        repeated: list[tuple[Proof, int]] = []
        if regular:
            repeated = [
                self._again.popleft()
                for _ in range(min(_MOST_PROOFS - len(proofs), len(self._again)))
            ]
        self._again.extend((proof, left - 1) for proof, left in repeated if left > 1)
        self._again.extend((proof, _TOLD_TIMES - 1) for proof in proofs)
        return proofs + [proof for proof, _ in repeated]
