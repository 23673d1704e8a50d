"""What an operator's command does to the fleet: pure. Older commands than the last of a node, epoch
or the trust document are replays and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from shared import catalogue
from shared.contracts.commands import DrainNode, EnrolNode, EpochKey, LabelNode, RemoveNode
from shared.contracts.edge import NodeEvent
from shared.errors import Poison

Word = Literal["enrolled", "drained", "returned", "removed", "labelled"]
SMALL_FLEET = 100
_SUBJECTS: Mapping[Word, str] = {
    "enrolled": catalogue.EVENT_NODE_ENROLLED,
    "drained": catalogue.EVENT_NODE_DRAINED,
    "returned": catalogue.EVENT_NODE_RETURNED,
    "removed": catalogue.EVENT_NODE_REMOVED,
    "labelled": catalogue.EVENT_NODE_LABELLED,
}


@dataclass(frozen=True)
class Node:
    """``enrolment``: the operator's Signed bytes, None once removed; ``issued_at``: of its last
    command."""

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
    def counts(self) -> bool:
        """Whether it must prove what it serves (when it is not silent)."""
        return not self.drained and not self.removed


@dataclass(frozen=True)
class Epoch:
    """``key``: the Signed EpochKey; ``sealing``: the Signed SealingEpoch, once pairs may be sealed
    to it."""

    epoch: int
    public_key: str
    key: bytes = field(repr=False)
    issued_at: datetime
    started_at: datetime
    sealing: bytes | None = None


@dataclass(frozen=True)
class Change:
    """``word``: the fact to tell, None where only a keyring was renewed."""

    node: Node
    word: Word | None

    def event(self, at: datetime) -> tuple[str, NodeEvent] | None:
        """Subject and body."""
        if self.word is None:
            return None
        return _SUBJECTS[self.word], NodeEvent(node=self.node.node, change=self.word, at=at)


def enrol(held: Node | None, order: EnrolNode, received: bytes, at: datetime) -> Change | None:
    """A new node, one that comes back after its removal, or a renewed keyring (a drained node stays
    drained)."""
    if held is None or (held.removed and order.issued_at > held.issued_at):
        fresh = Node(
            order.node, order.public_key, order.nkey, order.labels, received, order.issued_at, at
        )
        return Change(fresh, "enrolled")
    if held.removed or order.issued_at < held.issued_at or held.enrolment == received:
        return None
    renewed = replace(
        held,
        public_key=order.public_key,
        nkey=order.nkey,
        labels=order.labels,
        enrolment=received,
        issued_at=order.issued_at,
    )
    return Change(renewed, "labelled" if order.labels != held.labels else None)


def drain(held: Node | None, order: DrainNode) -> Change | None:
    node = _current(held, order.node, order.issued_at)
    if node is None:
        return None
    changed = replace(node, drained=order.drained, issued_at=order.issued_at)
    return _told(
        node, changed, "drained" if order.drained else "returned", node.drained != order.drained
    )


def remove(held: Node | None, order: RemoveNode) -> Change | None:
    node = _current(held, order.node, order.issued_at)
    if node is None:
        return None
    return Change(replace(node, removed=True, enrolment=None, issued_at=order.issued_at), "removed")


def label(held: Node | None, order: LabelNode) -> Change | None:
    node = _current(held, order.node, order.issued_at)
    if node is None:
        return None
    changed = replace(node, labels=order.labels, issued_at=order.issued_at)
    return _told(node, changed, "labelled", node.labels != order.labels)


def _told(before: Node, after: Node, word: Word, differs: bool) -> Change | None:
    """A command that changes nothing but is the latest is remembered, so that older ones stay
    replays."""
    return None if before == after else Change(after, word if differs else None)


def _current(held: Node | None, node: str, issued_at: datetime) -> Node | None:
    """The node, or None when it is removed already or the command is older than its last one."""
    if held is None:
        raise Poison(f"there is no node {node!r}: enrol it first")
    return None if held.removed or issued_at < held.issued_at else held


def start(known: Mapping[int, Epoch], key: EpochKey, signed: bytes, at: datetime) -> Epoch | None:
    """The epoch to keep; None when it, or a newer one, is kept already. An epoch's key never
    changes."""
    held = known.get(key.epoch)
    if held is not None:
        if held.public_key != key.public_key:
            raise Poison(f"epoch {key.epoch} was started with another key: start a new epoch")
        return None
    if known and key.epoch < max(known):
        return None
    return Epoch(key.epoch, key.public_key, signed, key.issued_at, at)


def may_seal(
    epoch: Epoch, live: Mapping[str, frozenset[int]], at: datetime, patience: float
) -> bool:
    """Whether every live node (its confirmed epochs) can open what is sealed to ``epoch``, or it
    waited long enough."""
    waited = at - epoch.started_at >= timedelta(seconds=patience)
    return waited or all(epoch.epoch in confirmed for confirmed in live.values())


def flush_seconds(nodes: int) -> float:
    """How often a node sends usage: each second in fleets of up to 100, then so that the fleet's
    rate stays."""
    return max(1.0, nodes / SMALL_FLEET)
