"""Track which nodes have proven which revision, in the memory of the leader.

A restart loses nothing but time: pending revisions are rows of the database, and a node's digest
proves again what a lost proof did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.bundles import DesiredBundle
from services.edge_sync.domain.convergence import (
    ClockReading,
    NodeHealth,
    PendingRevision,
    build_converged,
    build_lagging,
    build_progress,
    find_live_nodes,
    prove_by_digest,
    take_proof,
)
from services.edge_sync.domain.fleet import NodeRecord
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.store.fleet import LastSeen
from shared.clock import Clock
from shared.contracts.edge import Converged, Lagging, NodeStatus, NodeView, Progress, Proof

GRACE_SECONDS = 5.0
_NodeState = Literal["live", "silent", "drained", "removed"]


class ConvergenceTracker:
    """Takes the nodes' statuses and decides when revisions have converged or lag.

    ``nodes``: the fleet, which fleet commands change. ``get_index``: returns the current index of
    the bucket. ``settled``: events of converged and lagging revisions, to be recorded.
    ``progress``: the latest progress of each revision, to be published when ``has_progress`` is
    set."""

    def __init__(
        self,
        nodes: Mapping[str, NodeRecord],
        get_index: Callable[[], BucketIndex],
        settings: EdgeSyncSettings,
    ) -> None:
        self._nodes = nodes
        self._get_index = get_index
        self._settings = settings
        self.start_term([], 0.0)

    def start_term(self, pending: Iterable[PendingRevision], monotonic: float) -> None:
        """Start anew as leader: with the pending revisions of the database, and nothing heard."""
        self._started_at = monotonic
        self._incarnation = self._get_index().incarnation
        self._pending: dict[str, dict[int, PendingRevision]] = {}
        self._expected: dict[str, dict[int, frozenset[str]]] = {}
        self._unsaved: set[str] = set()
        self.settled: asyncio.Queue[Converged | Lagging] = asyncio.Queue()
        self.progress: dict[tuple[str, int], Progress] = {}
        self.has_progress = asyncio.Event()
        # Nodes that were enrolled before this term get a moment to report. Otherwise the first
        # status alone would be "every live node".
        self._health: dict[str, NodeHealth] = {}
        for name, node in self._nodes.items():
            if not node.removed:
                self._health[name] = NodeHealth(monotonic)
        for revision in pending:
            self.track_revision(revision)

    def track_revision(self, pending: PendingRevision) -> PendingRevision:
        """Track a revision; return the one tracked already when its event is delivered again."""
        of_domain = self._pending.setdefault(pending.domain, {})
        return of_domain.setdefault(pending.revision, pending)

    def expect_bundle(self, desired: DesiredBundle) -> None:
        """Note which certificates handshakes must show. To be called before the put."""
        if desired.domain in self._pending:
            self._expected.setdefault(desired.domain, {})[desired.revision] = desired.served

    def count_pending(self) -> int:
        """Return the number of revisions that have not converged."""
        return sum(len(of_domain) for of_domain in self._pending.values())

    def take_status(self, status: NodeStatus, at: ClockReading) -> None:
        """Take a status with its proofs. One of a node that is not enrolled is ignored."""
        node = self._nodes.get(status.node)
        if node is None or node.removed:
            return
        health = self._health.setdefault(status.node, NodeHealth(at.monotonic))
        health.heard_at = at.monotonic
        health.status = status
        health.last_seen = at.wall
        self._unsaved.add(status.node)
        # A digest that equals the bucket's at the node's own sequence shows that the node holds
        # every bundle up to there, whatever statuses were lost before.
        if self._get_index().matches(status.incarnation, status.sequence, status.root):
            health.synced_sequence = status.sequence
            health.synced_at = at
        for proof in status.proofs:
            self._take_proof(status.node, proof, at)

    def check_pending(self, at: ClockReading) -> None:
        """Apply what time alone brings: digests in place of lost proofs, silent nodes, lagging
        revisions."""
        live = self.live_nodes(at.monotonic)
        self._follow_incarnation()
        digest_seconds = self._settings.edge_sync_digest_seconds
        for pending in list(self._iterate_pending()):
            # The repair may have put this revision, or the leader before this one.
            stored = self._get_index().get(pending.domain)
            if stored is not None and stored.revision >= pending.revision:
                pending.note_put(stored.sequence, at.monotonic)
            for node in prove_by_digest(pending, live, self._health, digest_seconds):
                self._note_progress(pending, live, node, at)
            if self._settle_if_converged(pending, live) or not self._is_overdue(pending, at):
                continue
            lagging = build_lagging(pending, live, self._nodes)
            if lagging is not None:
                pending.lagging = True
                self.settled.put_nowait(lagging)

    def live_nodes(self, monotonic: float) -> list[str]:
        """Return the nodes that a revision must wait for now."""
        live_seconds = self._settings.edge_sync_live_seconds
        return find_live_nodes(self._nodes, self._health, monotonic, live_seconds)

    def live_epochs(self, monotonic: float) -> dict[str, frozenset[int]]:
        """Return the epochs that each live node reports to have the key of."""
        epochs = {}
        for node in self.live_nodes(monotonic):
            status = self._health[node].status
            epochs[node] = frozenset(status.epochs) if status else frozenset()
        return epochs

    def forget_node(self, node: str) -> None:
        """Forget what a node reported: it left the fleet, or comes back to it."""
        self._health.pop(node, None)

    def take_unsaved(self) -> list[LastSeen]:
        """Return the nodes that were heard since the last call."""
        names = sorted(self._unsaved)
        self._unsaved = set()
        rows = []
        for name in names:
            health = self._health.get(name)
            if health is not None and health.last_seen and health.status:
                rows.append(LastSeen(name, health.last_seen, health.status.sequence))
        return rows

    def find_proven(self, domain: str, monotonic: float) -> tuple[list[str], list[str]]:
        """Return the live nodes that serve a domain's newest revision, and those that do not."""
        revisions = self._pending.get(domain)
        stored = self._get_index().get(domain)
        needed = 0 if stored is None else stored.sequence
        proven = []
        missing = []
        for node in sorted(self.live_nodes(monotonic)):
            if revisions:
                serves = node in revisions[max(revisions)].proven_ms
            else:
                serves = self._health[node].synced_sequence >= needed
            if serves:
                proven.append(node)
            else:
                missing.append(node)
        return proven, missing

    def view_nodes(self, monotonic: float) -> list[NodeView]:
        """Return every node with its state, also removed ones."""
        live = set(self.live_nodes(monotonic))
        return [self._view_node(node, node.node in live) for node in self._nodes.values()]

    def _view_node(self, node: NodeRecord, live: bool) -> NodeView:
        health = self._health.get(node.node)
        index = self._get_index()
        status = None if health is None else health.status
        last_seen = node.last_seen
        sequence = node.sequence
        in_sync = False
        epochs: list[int] = []
        if health is not None and status is not None:
            last_seen = health.last_seen
            sequence = status.sequence
            epochs = list(status.epochs)
            in_sync = sequence == index.sequence and index.matches(
                status.incarnation, sequence, status.root
            )
        return NodeView(
            node=node.node,
            labels=node.labels,
            enrolled_at=node.enrolled_at,
            state=_find_state(node, live and status is not None),
            last_seen=last_seen,
            sequence=sequence,
            behind=None if sequence is None else max(0, index.sequence - sequence),
            in_sync=in_sync,
            epochs=epochs,
        )

    def _iterate_pending(self) -> Iterator[PendingRevision]:
        for of_domain in self._pending.values():
            yield from of_domain.values()

    def _follow_incarnation(self) -> None:
        """Forget sequences when the bucket was lost: they mean nothing in its successor."""
        incarnation = self._get_index().incarnation
        if incarnation == self._incarnation:
            return
        self._incarnation = incarnation
        for health in self._health.values():
            health.synced_sequence = -1
            health.synced_at = None
        for pending in self._iterate_pending():
            pending.sequence = None

    def _take_proof(self, node: str, proof: Proof, at: ClockReading) -> None:
        # A proof of a revision proves the earlier pending ones of the domain as well.
        expected = self._find_expected(proof)
        if expected is None or proof.domain not in self._pending:
            return
        live = self.live_nodes(at.monotonic)
        for pending in list(self._pending[proof.domain].values()):
            if pending.revision > proof.revision:
                continue
            if take_proof(pending, node, proof, expected, at):
                self._note_progress(pending, live, node, at)
                self._settle_if_converged(pending, live)

    def _find_expected(self, proof: Proof) -> frozenset[str] | None:
        """Return what the handshake of that revision must have shown, None when it was never
        put."""
        expected = self._expected.get(proof.domain, {}).get(proof.revision)
        if expected is not None:
            return expected
        stored = self._get_index().get(proof.domain)
        if stored is not None and stored.revision == proof.revision:
            return stored.served
        return None

    def _settle_if_converged(self, pending: PendingRevision, live: Sequence[str]) -> bool:
        converged = build_converged(pending, live, self._nodes)
        if converged is None:
            return False
        of_domain = self._pending.get(pending.domain, {})
        of_domain.pop(pending.revision, None)
        if not of_domain:
            self._pending.pop(pending.domain, None)
            self._expected.pop(pending.domain, None)
        self.settled.put_nowait(converged)
        return True

    def _is_overdue(self, pending: PendingRevision, at: ClockReading) -> bool:
        """Return whether a revision lags, and this leader has listened for long enough to have
        heard every node."""
        lagging_seconds = self._settings.edge_sync_lagging_seconds
        if pending.lagging or pending.elapsed_ms(at) <= lagging_seconds * 1000:
            return False
        return at.monotonic - self._started_at > min(GRACE_SECONDS, lagging_seconds)

    def _note_progress(
        self, pending: PendingRevision, live: Sequence[str], node: str, at: ClockReading
    ) -> None:
        key = (pending.domain, pending.revision)
        self.progress[key] = build_progress(pending, live, node, at)
        self.has_progress.set()


def _find_state(node: NodeRecord, live: bool) -> _NodeState:
    if node.removed:
        return "removed"
    if node.drained:
        return "drained"
    return "live" if live else "silent"


def read_clocks() -> ClockReading:
    """Return the present moment, without a test's offset: it is compared with streams' times."""
    return ClockReading(Clock().now(), time.monotonic())
