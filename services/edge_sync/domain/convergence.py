"""Convergence: a revision has converged when every live node has proven it. Pure.

Every live node: enrolled, not drained, status within the last 5 s (the setting
EDGETLS_EDGE_SYNC_LIVE_SECONDS). The event names the other enrolled nodes, but nothing waits for
them. With no live node nothing converges.

A node proves a revision by the certificate that a real local handshake showed, or, when that proof
was lost, by a digest that equals the bucket's. A proof of a later revision proves the earlier ones
as well: they were overtaken. Times are by edge_sync's receipt.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.edge_sync.domain.fleet import NodeRecord
from shared.contracts.edge import Converged, Lagging, NodeStatus, Progress, Proof

MAX_NAMES = 2000
MAX_FAULTS = 50
"""Limits of an event about a large fleet: a thousand faults of 500 characters would be more than a
stream takes."""


class ClockReading(NamedTuple):
    """One moment on two clocks.

    ``wall`` is the real time, without the offset of a test clock, because the broker stamps
    submissions with the real time. ``monotonic`` is in seconds and never jumps: it measures
    silence."""

    wall: datetime
    monotonic: float


@dataclass
class PendingRevision:
    """A revision on its way to the nodes.

    ``sequence``: where it (or a later revision) stands in the bucket, None until it was put.
    ``put_at``: monotonic time of the put. ``proven_ms``: milliseconds from submission to each
    node's proof. ``faults``: the last failed proof of each node that has not proven it."""

    domain: str
    account: str
    revision: int
    command_id: str
    submitted_at: datetime
    lagging: bool = False
    sequence: int | None = None
    put_at: float = 0.0
    proven_ms: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def elapsed_ms(self, at: ClockReading) -> float:
        """Return the milliseconds since the submission."""
        return max(0.0, (at.wall - self.submitted_at).total_seconds() * 1000)

    def note_put(self, sequence: int, monotonic: float) -> None:
        """Note where the revision stands in the bucket; the first call counts."""
        if self.sequence is None:
            self.sequence = sequence
            self.put_at = monotonic


@dataclass
class NodeHealth:
    """The last reports of a node.

    ``heard_at``: monotonic time of the last status. ``synced_sequence``: the highest sequence at
    which the node's digest equalled the bucket's, -1 for none. ``synced_at``: when it said so."""

    heard_at: float
    status: NodeStatus | None = None
    last_seen: datetime | None = None
    synced_sequence: int = -1
    synced_at: ClockReading | None = None


def find_live_nodes(
    nodes: Mapping[str, NodeRecord],
    health: Mapping[str, NodeHealth],
    monotonic: float,
    live_seconds: float,
) -> list[str]:
    """Return the names of nodes that are enrolled, not drained, and heard within
    ``live_seconds``."""
    live = []
    for name, node in nodes.items():
        heard = health.get(name)
        if node.must_prove and heard is not None and monotonic - heard.heard_at <= live_seconds:
            live.append(name)
    return live


def take_proof(
    pending: PendingRevision, node: str, proof: Proof, expected: Collection[str], at: ClockReading
) -> bool:
    """Note a proof of the pending revision or of a later one.

    Return whether the node proves the pending revision by it for the first time. ``expected``: leaf
    fingerprints of which the handshake must have shown one; empty when it must have failed."""
    if node in pending.proven_ms:
        return False
    fault = _find_fault(proof, expected)
    if fault is not None:
        pending.faults[node] = fault
        return False
    pending.faults.pop(node, None)
    pending.proven_ms[node] = pending.elapsed_ms(at)
    return True


def _find_fault(proof: Proof, expected: Collection[str]) -> str | None:
    if proof.fault is not None:
        return proof.fault
    if proof.served is None:
        return "a handshake was refused" if expected else None
    return None if proof.served in expected else "a handshake served something else"


def prove_by_digest(
    pending: PendingRevision,
    live: Iterable[str],
    health: Mapping[str, NodeHealth],
    digest_seconds: float,
) -> list[str]:
    """Note as proven, and return, the live nodes whose proof was lost but whose digest agrees.

    The digest shows that a node holds the bundle, not that it has served it yet. So it counts only
    ``digest_seconds`` after the put, and never against a fault that the node has reported."""
    if pending.sequence is None:
        return []
    found = []
    for node in live:
        if node in pending.proven_ms or node in pending.faults:
            continue
        synced_at = health[node].synced_at
        if synced_at is None or health[node].synced_sequence < pending.sequence:
            continue
        if synced_at.monotonic >= pending.put_at + digest_seconds:
            pending.proven_ms[node] = pending.elapsed_ms(synced_at)
            found.append(node)
    return found


def build_converged(
    pending: PendingRevision, live: Sequence[str], nodes: Mapping[str, NodeRecord]
) -> Converged | None:
    """Return the event when every live node has proven the revision, None before that or without
    a live node."""
    if not live or any(node not in pending.proven_ms for node in live):
        return None
    times = {node: pending.proven_ms[node] for node in live}
    slowest = max(times, key=lambda node: (times[node], node))
    others = sorted(name for name, node in nodes.items() if not node.removed and name not in times)
    return Converged(
        domain=pending.domain,
        account=pending.account,
        revision=pending.revision,
        command_id=pending.command_id,
        nodes=len(live),
        p50_ms=nearest_rank(times.values(), 50),
        p99_ms=nearest_rank(times.values(), 99),
        slowest=slowest,
        slowest_ms=round(times[slowest], 3),
        others=others[:MAX_NAMES],
    )


def build_lagging(
    pending: PendingRevision, live: Sequence[str], nodes: Mapping[str, NodeRecord]
) -> Lagging | None:
    """Return the event that names the live nodes without a proof.

    When no node is live, it names all that should be. None when there is none to name."""
    if live:
        missing = sorted(node for node in live if node not in pending.proven_ms)
    else:
        missing = sorted(name for name, node in nodes.items() if node.must_prove)
    if not missing:
        return None
    at_fault = [node for node in missing if node in pending.faults]
    return Lagging(
        domain=pending.domain,
        account=pending.account,
        revision=pending.revision,
        command_id=pending.command_id,
        missing=missing[:MAX_NAMES],
        faults={node: pending.faults[node] for node in at_fault[:MAX_FAULTS]},
    )


def build_progress(
    pending: PendingRevision, live: Sequence[str], last_node: str, at: ClockReading
) -> Progress:
    """Return the message with the number of live nodes that have proven the revision."""
    return Progress(
        domain=pending.domain,
        revision=pending.revision,
        nodes=len(live),
        proven=sum(node in pending.proven_ms for node in live),
        last_node=last_node,
        elapsed_ms=round(pending.elapsed_ms(at), 3),
    )


def nearest_rank(values: Iterable[float], percent: int) -> float:
    """Return the percentile by the nearest rank, to three decimals. ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    rank = math.ceil(len(ordered) * percent / 100)
    return round(ordered[max(0, rank - 1)], 3)
