"""The fleet's nodes and sealing epochs, and what an operator's command changes in them. Pure.

Every command carries the time of its signature. One that is older than the last of the same node,
epoch or trust document is a replay and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from shared import catalogue
from shared.contracts.commands import DrainNode, EnrolNode, EpochKey, LabelNode, RemoveNode
from shared.contracts.edge import NodeEvent
from shared.errors import Poison

NodeChange = Literal["enrolled", "drained", "returned", "removed", "labelled"]
SMALL_FLEET = 100
_EVENTS: Mapping[NodeChange, str] = {
    "enrolled": catalogue.EVENT_NODE_ENROLLED,
    "drained": catalogue.EVENT_NODE_DRAINED,
    "returned": catalogue.EVENT_NODE_RETURNED,
    "removed": catalogue.EVENT_NODE_REMOVED,
    "labelled": catalogue.EVENT_NODE_LABELLED,
}


@dataclass(frozen=True)
class NodeRecord:
    """A node as the operator's commands made it: one row of the table ``nodes``.

    ``enrolment``: the operator's Signed bytes, None once the node is removed. ``issued_at``: time
    of the last command about this node."""

    node: str
    public_key: str
    nkey: str
    labels: dict[str, str]
    enrolment: bytes | None = field(repr=False)
    issued_at: datetime
    enrolled_at: datetime
    drained: bool = False
    removed: bool = False
    last_seen: datetime | None = None
    sequence: int | None = None

    @property
    def must_prove(self) -> bool:
        """Return whether revisions wait for this node while it reports: not drained or removed."""
        return not self.drained and not self.removed


@dataclass(frozen=True)
class EpochRecord:
    """A sealing epoch: one row of the table ``epochs``.

    ``key``: the Signed EpochKey. ``sealing``: the Signed SealingEpoch, None until pairs may be
    sealed to the epoch."""

    epoch: int
    public_key: str
    key: bytes = field(repr=False)
    issued_at: datetime
    started_at: datetime
    sealing: bytes | None = None


@dataclass
class FleetState:
    """The fleet in memory, equal to the database after each command."""

    # Others keep a reference to ``nodes``: change the dictionary, never replace it.
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    epochs: dict[int, EpochRecord] = field(default_factory=dict)

    @property
    def newest_epoch(self) -> EpochRecord | None:
        """Return the epoch with the highest number."""
        return self.epochs[max(self.epochs)] if self.epochs else None

    @property
    def sealing_epoch(self) -> EpochRecord | None:
        """Return the epoch that pairs are sealed to: the highest one that was opened for it."""
        opened = [number for number, epoch in self.epochs.items() if epoch.sealing is not None]
        return self.epochs[max(opened)] if opened else None

    @property
    def newest_number(self) -> int:
        """Return the number of the newest epoch, 0 without epochs."""
        return max(self.epochs, default=0)

    def count_remaining(self) -> int:
        """Return the number of nodes that are not removed."""
        return sum(not node.removed for node in self.nodes.values())


@dataclass(frozen=True)
class NodeUpdate:
    """The effect of a command on a node.

    ``change``: published as an event; None when no event follows (a renewed keyring)."""

    node: NodeRecord
    change: NodeChange | None

    def build_event(self, at: datetime) -> tuple[str, NodeEvent] | None:
        """Return the event's subject and body, None when no event follows."""
        if self.change is None:
            return None
        return _EVENTS[self.change], NodeEvent(node=self.node.node, change=self.change, at=at)


def enrol_node(
    known: NodeRecord | None, command: EnrolNode, signed: bytes, at: datetime
) -> NodeUpdate | None:
    """Enrol a new or removed node, or renew the keyring of an enrolled one.

    A drained node stays drained. None when the command is a replay."""
    if known is None or (known.removed and command.issued_at > known.issued_at):
        enrolled = NodeRecord(
            node=command.node,
            public_key=command.public_key,
            nkey=command.nkey,
            labels=command.labels,
            enrolment=signed,
            issued_at=command.issued_at,
            enrolled_at=at,
        )
        return NodeUpdate(enrolled, "enrolled")
    if known.removed or command.issued_at < known.issued_at or known.enrolment == signed:
        return None
    renewed = replace(
        known,
        public_key=command.public_key,
        nkey=command.nkey,
        labels=command.labels,
        enrolment=signed,
        issued_at=command.issued_at,
    )
    if command.labels != known.labels:
        return NodeUpdate(renewed, "labelled")
    return NodeUpdate(renewed, None)


def drain_node(known: NodeRecord | None, command: DrainNode) -> NodeUpdate | None:
    """Take a node out of convergence, or bring it back. None when nothing changes."""
    node = _find_changeable(known, command.node, command.issued_at)
    if node is None:
        return None
    change: NodeChange | None = None
    if node.drained != command.drained:
        change = "drained" if command.drained else "returned"
    changed = replace(node, drained=command.drained, issued_at=command.issued_at)
    return _update_unless_equal(node, changed, change)


def remove_node(known: NodeRecord | None, command: RemoveNode) -> NodeUpdate | None:
    """Remove a node and its keyring. None when the command is a replay."""
    node = _find_changeable(known, command.node, command.issued_at)
    if node is None:
        return None
    removed = replace(node, removed=True, enrolment=None, issued_at=command.issued_at)
    return NodeUpdate(removed, "removed")


def label_node(known: NodeRecord | None, command: LabelNode) -> NodeUpdate | None:
    """Replace a node's labels. None when nothing changes."""
    node = _find_changeable(known, command.node, command.issued_at)
    if node is None:
        return None
    changed = replace(node, labels=command.labels, issued_at=command.issued_at)
    change: NodeChange | None = "labelled" if node.labels != command.labels else None
    return _update_unless_equal(node, changed, change)


def _update_unless_equal(
    before: NodeRecord, after: NodeRecord, change: NodeChange | None
) -> NodeUpdate | None:
    # A newer command without an effect is stored all the same: its time keeps older ones replays.
    return None if before == after else NodeUpdate(after, change)


def _find_changeable(known: NodeRecord | None, node: str, issued_at: datetime) -> NodeRecord | None:
    """Return the node, None when it is removed or the command is older than its last one."""
    if known is None:
        raise Poison(f"there is no node {node!r}: enrol it first")
    if known.removed or issued_at < known.issued_at:
        return None
    return known


def start_epoch(
    known: Mapping[int, EpochRecord], key: EpochKey, signed: bytes, at: datetime
) -> EpochRecord | None:
    """Return the epoch to store, None when it or a newer one is known.

    Poison when the epoch is known with another key: the key of an epoch never changes."""
    started = known.get(key.epoch)
    if started is not None:
        if started.public_key != key.public_key:
            raise Poison(f"epoch {key.epoch} was started with another key: start a new epoch")
        return None
    if known and key.epoch < max(known):
        return None
    return EpochRecord(
        epoch=key.epoch,
        public_key=key.public_key,
        key=signed,
        issued_at=key.issued_at,
        started_at=at,
    )


def may_seal(
    epoch: EpochRecord,
    live_epochs: Mapping[str, frozenset[int]],
    at: datetime,
    longest_wait_seconds: float,
) -> bool:
    """Return whether pairs may be sealed to ``epoch``: every live node can open them, or the epoch
    has waited for ``longest_wait_seconds``.

    ``live_epochs``: the epochs that each live node has confirmed."""
    if at - epoch.started_at >= timedelta(seconds=longest_wait_seconds):
        return True
    return all(epoch.epoch in confirmed for confirmed in live_epochs.values())


def flush_seconds(nodes: int) -> float:
    """Return how often a node sends usage.

    Each second in a fleet of up to 100 nodes; above, more rarely, so that the messages per second
    of the whole fleet stay the same."""
    return max(1.0, nodes / SMALL_FLEET)
