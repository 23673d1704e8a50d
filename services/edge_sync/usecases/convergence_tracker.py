"""Observed state in: what the nodes report, who has proven what, what is told of it. In memory of
the one that works.

A restart loses nothing but time: pending revisions are rows, and a node's digest proves again what
its lost proof did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

from services.edge_sync.domain.bucket_index import Index
from services.edge_sync.domain.bundles import Desired
from services.edge_sync.domain.convergence import (
    Moment,
    Seen,
    Watch,
    converged,
    lagging,
    live_nodes,
    progress,
    prove_by_digest,
    take_proof,
)
from services.edge_sync.domain.fleet import Node
from services.edge_sync.settings import Settings
from shared.contracts.edge import Converged, Lagging, NodeStatus, NodeView, Progress, Proof

GRACE_SECONDS = 5.0


class Observer:
    """``nodes``: the fleet, shared with who changes it; ``index``: what the bucket holds now.

    ``settled``: converged or lagging revisions, to be recorded; ``progress``: the latest of each,
    to be told."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        index: Callable[[], Index],
        settings: Settings,
        started: float,
    ) -> None:
        self._nodes, self._index, self._settings, self._started = nodes, index, settings, started
        # Whoever was enrolled before this replica took over has a moment to be heard: else the
        # first status alone would be "every node".
        self._seen = {name: Seen(started) for name, node in nodes.items() if not node.removed}
        self._watches: dict[str, dict[int, Watch]] = {}
        self._expected: dict[str, dict[int, frozenset[str]]] = {}
        self._unsaved: set[str] = set()
        self._incarnation = index().incarnation
        self.settled: asyncio.Queue[Converged | Lagging] = asyncio.Queue()
        self.progress: dict[tuple[str, int], Progress] = {}
        self.progressed = asyncio.Event()

    # What is on its way

    def watch(self, watch: Watch) -> Watch:
        """The same watch for the same revision, however often its event is delivered."""
        return self._watches.setdefault(watch.domain, {}).setdefault(watch.revision, watch)

    def expect(self, desired: Desired) -> None:
        """Before the put: a node may prove it sooner than the PubAck arrives."""
        if desired.domain in self._watches:
            self._expected.setdefault(desired.domain, {})[desired.revision] = desired.served

    def unwatch(self, domain: str, revision: int) -> None:
        watches = self._watches.get(domain, {})
        watches.pop(revision, None)
        if not watches:
            self._watches.pop(domain, None)
            self._expected.pop(domain, None)

    def resume(self, watches: list[Watch]) -> None:
        """After a takeover: the rows that are pending."""
        for pending in watches:
            self.watch(pending)

    @property
    def pending(self) -> int:
        return sum(map(len, self._watches.values()))

    # What arrives

    def heard(self, status: NodeStatus, at: Moment) -> None:
        """Of an enrolled node; anyone else's is ignored."""
        node = self._nodes.get(status.node)
        if node is None or node.removed:
            return
        seen = self._seen.setdefault(status.node, Seen(at.mono))
        seen.heard, seen.status, seen.last_seen = at.mono, status, at.wall
        self._unsaved.add(status.node)
        if self._index().agrees(status.incarnation, status.sequence, status.root):
            seen.synced, seen.synced_at = status.sequence, at
        for proof in status.proofs:
            self._prove(status.node, proof, at)

    def tick(self, at: Moment) -> None:
        """What only time brings: digests in place of lost proofs, nodes that fell silent,
        lagging."""
        live = self.live(at.mono)
        self._follow_incarnation()
        for watch in [
            watch for of_domain in self._watches.values() for watch in of_domain.values()
        ]:
            self._place(watch, at)
            for node in prove_by_digest(
                watch, live, self._seen, self._settings.edge_sync_digest_seconds
            ):
                self._tell(watch, live, node, at)
            if not self._settle(watch, live) and self._lags(watch, at):
                body = lagging(watch, live, self._nodes)
                if body is not None:
                    watch.lagging = True
                    self.settled.put_nowait(body)

    def _follow_incarnation(self) -> None:
        """Sequences of a bucket that was lost mean nothing in its successor."""
        incarnation = self._index().incarnation
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            for seen in self._seen.values():
                seen.synced, seen.synced_at = -1, None
            for of_domain in self._watches.values():
                for watch in of_domain.values():
                    watch.sequence = None

    def _place(self, watch: Watch, at: Moment) -> None:
        """Where its revision stands, when the repair put it, or the replica before this one."""
        held = self._index().get(watch.domain)
        if held is not None and held.revision >= watch.revision:
            watch.stands_at(held.sequence, at.mono)

    def live(self, mono: float) -> list[str]:
        return live_nodes(self._nodes, self._seen, mono, self._settings.edge_sync_live_seconds)

    def epochs(self, mono: float) -> dict[str, frozenset[int]]:
        """The epochs that each live node says it can open."""
        return {node: _epochs(self._seen[node]) for node in self.live(mono)}

    def forget(self, node: str) -> None:
        """A removed node, should it be enrolled again."""
        self._seen.pop(node, None)

    # What is asked

    def unsaved(self) -> list[tuple[str, datetime, int]]:
        """(node, last seen, sequence) of nodes heard since the last call."""
        names, self._unsaved = self._unsaved, set()
        views = ((name, self._seen[name]) for name in sorted(names) if name in self._seen)
        return [(n, v.last_seen, v.status.sequence) for n, v in views if v.last_seen and v.status]

    def proof_of(self, domain: str, mono: float) -> tuple[list[str], list[str]]:
        """Live nodes that serve the newest revision, and those that do not (yet)."""
        live = sorted(self.live(mono))
        watches = self._watches.get(domain)
        if watches:
            proven = watches[max(watches)].proven
            return [n for n in live if n in proven], [n for n in live if n not in proven]
        held = self._index().get(domain)
        needed = 0 if held is None else held.sequence
        return [n for n in live if self._seen[n].synced >= needed], [
            n for n in live if self._seen[n].synced < needed
        ]

    def views(self, mono: float) -> list[NodeView]:
        live = set(self.live(mono))
        return [self._view(node, node.node in live) for node in self._nodes.values()]

    def _view(self, node: Node, live: bool) -> NodeView:
        seen, index = self._seen.get(node.node), self._index()
        status = seen.status if seen else None
        sequence = status.sequence if status else node.sequence
        agrees = status is not None and index.agrees(
            status.incarnation, status.sequence, status.root
        )
        live = live and status is not None
        return NodeView(
            node=node.node,
            labels=node.labels,
            enrolled_at=node.enrolled_at,
            state="removed"
            if node.removed
            else "drained"
            if node.drained
            else "live"
            if live
            else "silent",
            last_seen=(seen.last_seen if seen else None) or node.last_seen,
            sequence=sequence,
            behind=None if sequence is None else max(0, index.sequence - sequence),
            in_sync=agrees and sequence == index.sequence,
            epochs=list(status.epochs) if status else [],
        )

    def _prove(self, node: str, proof: Proof, at: Moment) -> None:
        watches = self._watches.get(proof.domain)
        expected = self._expected_of(proof)
        if not watches or expected is None:
            return
        live = self.live(at.mono)
        for watch in [watch for revision, watch in watches.items() if revision <= proof.revision]:
            if take_proof(watch, node, proof, expected, at):
                self._tell(watch, live, node, at)
                self._settle(watch, live)

    def _expected_of(self, proof: Proof) -> frozenset[str] | None:
        """What the handshake of that revision must have shown; None for one that was never put."""
        expected = self._expected.get(proof.domain, {}).get(proof.revision)
        if expected is None:
            held = self._index().get(proof.domain)
            expected = held.served if held is not None and held.revision == proof.revision else None
        return expected

    def _settle(self, watch: Watch, live: list[str]) -> bool:
        body = converged(watch, live, self._nodes)
        if body is None:
            return False
        self.unwatch(watch.domain, watch.revision)
        self.settled.put_nowait(body)
        return True

    def _lags(self, watch: Watch, at: Moment) -> bool:
        """Past its time, and this replica has watched for long enough to have heard everybody."""
        return (
            not watch.lagging
            and watch.elapsed_ms(at) > self._settings.edge_sync_lagging_seconds * 1000
            and at.mono - self._started
            > min(GRACE_SECONDS, self._settings.edge_sync_lagging_seconds)
        )

    def _tell(self, watch: Watch, live: list[str], node: str, at: Moment) -> None:
        self.progress[(watch.domain, watch.revision)] = progress(watch, live, node, at)
        self.progressed.set()


def _epochs(seen: Seen) -> frozenset[int]:
    return frozenset(seen.status.epochs) if seen.status else frozenset()
