"""The effect of the operator's commands on nodes and epochs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.edge_sync.domain import fleet
from services.edge_sync.domain.fleet import EpochRecord, NodeRecord, NodeUpdate
from shared import catalogue
from shared.contracts.commands import DrainNode, EnrolNode, EpochKey, LabelNode, RemoveNode
from shared.errors import Poison

T0 = datetime(2026, 3, 1, tzinfo=UTC)
NKEY = "U" + "A" * 55


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def enrolment(seconds: float, **fields: object) -> EnrolNode:
    body = {
        "node": "node-1",
        "public_key": "key",
        "nkey": NKEY,
        "keyring": [],
        "issued_at": at(seconds),
    } | fields
    return EnrolNode.model_validate(body)


def enrolled(seconds: float = 0) -> NodeRecord:
    node, _ = apply(fleet.enrol_node(None, enrolment(seconds), b"signed", T0))
    return node


def apply(update: NodeUpdate | None) -> tuple[NodeRecord, str | None]:
    assert update is not None
    return update.node, update.change


def test_an_enrolment_makes_a_node_and_the_same_again_changes_nothing() -> None:
    node, change = apply(fleet.enrol_node(None, enrolment(0), b"signed", T0))
    assert (change, node.must_prove, node.enrolment) == ("enrolled", True, b"signed")
    assert fleet.enrol_node(node, enrolment(0), b"signed", at(9)) is None
    assert NodeUpdate(node, "enrolled").build_event(T0) is not None
    subject, _ = NodeUpdate(node, "enrolled").build_event(T0) or ("", None)
    assert subject == catalogue.EVENT_NODE_ENROLLED


def test_a_renewed_keyring_is_taken_without_an_event_and_leaves_a_drained_node_drained() -> None:
    drained, _ = apply(fleet.drain_node(enrolled(), DrainNode(node="node-1", issued_at=at(1))))
    node, change = apply(fleet.enrol_node(drained, enrolment(2), b"renewed", at(2)))
    assert (change, node.drained, node.enrolment, node.enrolled_at) == (None, True, b"renewed", T0)
    assert NodeUpdate(node, None).build_event(T0) is None


def test_an_older_enrolment_is_a_replay() -> None:
    assert fleet.enrol_node(enrolled(5), enrolment(4), b"older", at(9)) is None


def test_draining_and_returning_tell_once_and_older_ones_are_replays() -> None:
    drained, change = apply(fleet.drain_node(enrolled(), DrainNode(node="node-1", issued_at=at(1))))
    assert (change, drained.must_prove) == ("drained", False)
    assert fleet.drain_node(drained, DrainNode(node="node-1", issued_at=at(1))) is None
    back, change = apply(
        fleet.drain_node(drained, DrainNode(node="node-1", drained=False, issued_at=at(3)))
    )
    assert (change, back.must_prove) == ("returned", True)
    assert fleet.drain_node(back, DrainNode(node="node-1", issued_at=at(2))) is None


def test_a_command_without_an_effect_is_remembered_as_the_latest() -> None:
    node, change = apply(
        fleet.drain_node(enrolled(), DrainNode(node="node-1", drained=False, issued_at=at(5)))
    )
    assert change is None
    assert fleet.drain_node(node, DrainNode(node="node-1", issued_at=at(4))) is None


def test_a_removed_node_keeps_no_keyring_and_only_a_later_enrolment_brings_it_back() -> None:
    gone, change = apply(fleet.remove_node(enrolled(), RemoveNode(node="node-1", issued_at=at(5))))
    assert (change, gone.enrolment, gone.must_prove) == ("removed", None, False)
    assert fleet.remove_node(gone, RemoveNode(node="node-1", issued_at=at(6))) is None
    assert fleet.enrol_node(gone, enrolment(5), b"old", at(7)) is None
    back, change = apply(fleet.enrol_node(gone, enrolment(6), b"new", at(7)))
    assert (change, back.must_prove) == ("enrolled", True)


def test_labels_are_replaced() -> None:
    node, change = apply(
        fleet.label_node(
            enrolled(), LabelNode(node="node-1", labels={"city": "x"}, issued_at=at(1))
        )
    )
    assert (change, node.labels) == ("labelled", {"city": "x"})


def test_a_command_for_a_node_that_was_never_enrolled_is_poison() -> None:
    with pytest.raises(Poison, match="node-9"):
        fleet.drain_node(None, DrainNode(node="node-9", issued_at=T0))


def key(epoch: int, public_key: str = "p", seconds: float = 0) -> EpochKey:
    return EpochKey(epoch=epoch, public_key=public_key, issued_at=at(seconds))


def test_epochs_only_rise_and_never_change_their_key() -> None:
    first = fleet.start_epoch({}, key(1), b"signed", T0)
    assert first == EpochRecord(1, "p", b"signed", T0, T0)
    known = {1: first, 3: EpochRecord(3, "p", b"", T0, T0)}
    assert fleet.start_epoch(known, key(3, seconds=5), b"again", T0) is None
    assert fleet.start_epoch(known, key(2), b"older", T0) is None
    assert fleet.start_epoch(known, key(4), b"next", T0) is not None
    with pytest.raises(Poison, match="another key"):
        fleet.start_epoch(known, key(3, "q"), b"other", T0)


def test_an_epoch_is_sealed_to_when_the_live_nodes_have_it_or_it_waited_long_enough() -> None:
    epoch = EpochRecord(2, "p", b"", T0, T0)
    has, lacks = frozenset({1, 2}), frozenset({1})
    assert fleet.may_seal(epoch, {}, T0, 10)
    assert fleet.may_seal(epoch, {"a": has, "b": has}, T0, 10)
    assert not fleet.may_seal(epoch, {"a": has, "b": lacks}, at(9.9), 10)
    assert fleet.may_seal(epoch, {"a": has, "b": lacks}, at(10), 10)


def test_usage_is_flushed_each_second_until_the_fleet_grows() -> None:
    assert [fleet.flush_seconds(nodes) for nodes in (0, 3, 100, 1000)] == [1, 1, 1, 10]
