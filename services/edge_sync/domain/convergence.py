"""Who has proven a revision, how long it took, who lags: pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.edge_sync.domain.fleet import Node
from shared.contracts.edge import Converged, Lagging, NodeStatus, Progress, Proof

MOST_NAMES = 2000
MOST_FAULTS = 50
"""What an event names of a large fleet: a thousand faults of 500 characters would be more than a
stream takes."""


class Moment(NamedTuple):
    """``wall``: for the time since a submission (a stream's time, so without a test's offset);
    ``mono``: seconds that never jump, for who is silent."""

    wall: datetime
    mono: float


@dataclass
class Watch:
    """A revision on its way. ``sequence``: where in the bucket it (or a later one) stands, None
    until it was put;
    ``since``: when that was; ``proven``: milliseconds from submission to each node's proof."""

    domain: str
    account: str
    revision: int
    command_id: str
    submitted_at: datetime
    lagging: bool = False
    sequence: int | None = None
    since: float = 0.0
    proven: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def elapsed_ms(self, at: Moment) -> float:
        return max(0.0, (at.wall - self.submitted_at).total_seconds() * 1000)

    def stands_at(self, sequence: int, mono: float) -> None:
        if self.sequence is None:
            self.sequence, self.since = sequence, mono


@dataclass
class Seen:
    """A node as last heard. ``synced``: the highest sequence at which its digest was ours, and when
    it said so."""

    heard: float
    status: NodeStatus | None = None
    last_seen: datetime | None = None
    synced: int = -1
    synced_at: Moment | None = None


def live_nodes(
    nodes: Mapping[str, Node], seen: Mapping[str, Seen], mono: float, within: float
) -> list[str]:
    """Enrolled, not drained, heard within ``within`` seconds."""
    return [
        name
        for name, node in nodes.items()
        if node.counts and name in seen and mono - seen[name].heard <= within
    ]


def take_proof(
    watch: Watch, node: str, proof: Proof, expected: Collection[str], at: Moment
) -> bool:
    """Whether the proof, of the watched revision or a later one, proves it for the first time.

    ``expected``: the leaf fingerprints of which the handshake must have shown one; empty when it
    must have failed."""
    if node in watch.proven:
        return False
    if proof.fault is not None:
        watch.faults[node] = proof.fault
    elif proof.served is None if not expected else proof.served in expected:
        watch.faults.pop(node, None)
        watch.proven[node] = watch.elapsed_ms(at)
        return True
    else:
        watch.faults[node] = (
            "a handshake was refused"
            if proof.served is None
            else "a handshake served something else"
        )
    return False


def prove_by_digest(
    watch: Watch, live: Iterable[str], seen: Mapping[str, Seen], patience: float
) -> list[str]:
    """The nodes whose proof was lost but whose digest agrees, ``patience`` seconds after the put:
    until then a node may hold a bundle and not have served it yet."""
    found = []
    for node in live:
        view = seen[node]
        if (
            watch.sequence is None
            or node in watch.proven
            or node in watch.faults
            or view.synced_at is None
        ):
            continue
        if view.synced >= watch.sequence and view.synced_at.mono >= watch.since + patience:
            watch.proven[node] = watch.elapsed_ms(view.synced_at)
            found.append(node)
    return found


def converged(watch: Watch, live: Sequence[str], nodes: Mapping[str, Node]) -> Converged | None:
    """The event once every live node has proven the revision; with no live node nothing
    converges."""
    if not live or any(node not in watch.proven for node in live):
        return None
    times = {node: watch.proven[node] for node in live}
    slowest = max(times, key=lambda node: (times[node], node))
    return Converged(
        domain=watch.domain,
        account=watch.account,
        revision=watch.revision,
        command_id=watch.command_id,
        nodes=len(live),
        p50_ms=percentile(times.values(), 50),
        p99_ms=percentile(times.values(), 99),
        slowest=slowest,
        slowest_ms=round(times[slowest], 3),
        others=_others(live, nodes),
    )


def lagging(watch: Watch, live: Sequence[str], nodes: Mapping[str, Node]) -> Lagging | None:
    """Who is missing: live nodes without a proof, or, when none is live, all that should be. None
    without any."""
    missing = [node for node in live if node not in watch.proven]
    if not live:
        missing = [name for name, node in nodes.items() if node.counts]
    if not missing:
        return None
    missing.sort()
    at_fault = [node for node in missing if node in watch.faults]
    return Lagging(
        domain=watch.domain,
        account=watch.account,
        revision=watch.revision,
        command_id=watch.command_id,
        missing=missing[:MOST_NAMES],
        faults={node: watch.faults[node] for node in at_fault[:MOST_FAULTS]},
    )


def progress(watch: Watch, live: Sequence[str], node: str | None, at: Moment) -> Progress:
    return Progress(
        domain=watch.domain,
        revision=watch.revision,
        nodes=len(live),
        proven=sum(one in watch.proven for one in live),
        last_node=node,
        elapsed_ms=round(watch.elapsed_ms(at), 3),
    )


def percentile(values: Iterable[float], percent: int) -> float:
    """Nearest rank; of no values: ValueError."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 3)


def _others(live: Sequence[str], nodes: Mapping[str, Node]) -> list[str]:
    return sorted(name for name, node in nodes.items() if not node.removed and name not in live)[
        :MOST_NAMES
    ]
