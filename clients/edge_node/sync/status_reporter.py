"""Report the node's status to edge_sync: at once after a proof, and each second.

A status is cumulative, so a lost one costs nothing.
"""

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
from clients.edge_node.serving.apply import BundleApplier
from clients.edge_node.sync.feed import BundleFeed
from clients.edge_node.trust import NodeTrust
from shared import catalogue
from shared.contracts.edge import LogPosition, NodeStatus, Proof

_COALESCE_SECONDS = 0.02
_PERIOD_SECONDS = 1.0
_MAX_PROOFS_PER_STATUS = 1000
_MAX_QUEUED_PROOFS = 20_000
# A proof is sent at once and in the next two statuses of the second: core messages can be lost.
_SENDS_PER_PROOF = 3


class StatusReporter:
    """Collects proofs and sends statuses. ``log_positions``: the positions in the usage logs.

    Call `add_proof` for each proof; `run` while there is a connection."""

    def __init__(
        self, node: str, trust: NodeTrust, log_positions: Callable[[], list[LogPosition]]
    ) -> None:
        self._node = node
        self._trust = trust
        self._log_positions = log_positions
        self._new_proofs: deque[Proof] = deque(maxlen=_MAX_QUEUED_PROOFS)
        self._sent_proofs: deque[tuple[Proof, int]] = deque(maxlen=_MAX_QUEUED_PROOFS)
        self._wake = asyncio.Event()
        self._nginx_restarts = 0

    def add_proof(self, proof: Proof) -> None:
        """Send a proof, or a fault, with the next status."""
        self._new_proofs.append(proof)
        self._wake.set()

    def add_nginx_restart(self) -> None:
        """Count a restart of nginx."""
        self._nginx_restarts += 1

    async def run(self, client: Client, feed: BundleFeed, applier: BundleApplier) -> None:
        """Send statuses until cancelled.

        The phase of the second is derived from the node's id, so that the nodes of a fleet do not
        all send at once."""
        phase = zlib.crc32(self._node.encode()) / 2**32
        next_regular = time.time() // 1 + phase
        while True:
            while next_regular <= time.time():
                next_regular += _PERIOD_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_regular - time.time())):
                    await self._wake.wait()
            # Woken early by a proof: the status is an extra one and carries new proofs only.
            is_regular = not self._wake.is_set()
            self._wake.clear()
            if client.is_connected:
                status = self._make_status(feed, applier, is_regular)
                subject = catalogue.EDGE_STATUS.for_node(self._node)
                await client.publish(subject, status.encode())
                if self._new_proofs:
                    self._wake.set()
            await asyncio.sleep(_COALESCE_SECONDS)

    def _make_status(
        self, feed: BundleFeed, applier: BundleApplier, is_regular: bool
    ) -> NodeStatus:
        metrics.STALE.set(feed.stale)
        position = feed.settled_position()
        return NodeStatus(
            node=self._node,
            incarnation=position.incarnation,
            sequence=position.sequence,
            root=applier.proven.root(),
            epochs=self._trust.epochs,
            stale=feed.stale,
            proofs=self._take_proofs(is_regular),
            logs=self._log_positions(),
            nginx_restarts=self._nginx_restarts,
            time=datetime.now(UTC),
        )

    def _take_proofs(self, is_regular: bool) -> list[Proof]:
        """Return the proofs of the next status: new ones first, in a regular one also sent ones."""
        proofs: list[Proof] = []
        while self._new_proofs and len(proofs) < _MAX_PROOFS_PER_STATUS:
            proofs.append(self._new_proofs.popleft())
        repeated: list[tuple[Proof, int]] = []
        if is_regular:
            repeat_count = min(_MAX_PROOFS_PER_STATUS - len(proofs), len(self._sent_proofs))
            repeated = [self._sent_proofs.popleft() for _ in range(repeat_count)]
        self._sent_proofs.extend((proof, left - 1) for proof, left in repeated if left > 1)
        self._sent_proofs.extend((proof, _SENDS_PER_PROOF - 1) for proof in proofs)
        return proofs + [proof for proof, _ in repeated]
