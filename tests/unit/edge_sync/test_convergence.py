"""Proofs of nodes, and when a revision has converged or lags."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.bundles import DesiredBundle, StoredBundle
from services.edge_sync.domain.convergence import (
    ClockReading,
    PendingRevision,
    build_converged,
    build_lagging,
    nearest_rank,
    take_proof,
)
from services.edge_sync.domain.fleet import NodeRecord
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from shared.contracts.edge import BundleKind, Converged, Lagging, NodeStatus, Proof

T0 = datetime(2026, 3, 1, tzinfo=UTC)
LEAF, OTHER = "ab" * 32, "cd" * 32
DOMAIN = "www.example.test"


def at(seconds: float) -> ClockReading:
    return ClockReading(T0 + timedelta(seconds=seconds), 1000 + seconds)


def make_pending(revision: int = 7) -> PendingRevision:
    return PendingRevision(DOMAIN, "acme", revision, f"command-{revision}", T0)


def make_proof(revision: int = 7, served: str | None = LEAF, fault: str | None = None) -> Proof:
    return Proof(domain=DOMAIN, revision=revision, applied_at=T0, served=served, fault=fault)


def make_nodes(*names: str, **changed: dict[str, Any]) -> dict[str, NodeRecord]:
    return {
        name: NodeRecord(name, "", "", {}, b"", T0, T0, **changed.get(name, {})) for name in names
    }


@pytest.mark.parametrize(
    ("case", "given_proof", "expected", "proven", "fault"),
    [
        ("the expected leaf was served", make_proof(), {LEAF}, True, None),
        ("one of two was served", make_proof(served=OTHER), {LEAF, OTHER}, True, None),
        (
            "another leaf was served",
            make_proof(served=OTHER),
            {LEAF},
            False,
            "a handshake served something else",
        ),
        (
            "the handshake was refused",
            make_proof(served=None),
            {LEAF},
            False,
            "a handshake was refused",
        ),
        ("it was refused as it must be", make_proof(served=None), set(), True, None),
        (
            "it was served though it must not be",
            make_proof(),
            set(),
            False,
            "a handshake served something else",
        ),
        (
            "the node could not apply it",
            make_proof(served=None, fault="full"),
            set(),
            False,
            "full",
        ),
    ],
)
def test_a_node_is_proven_when(
    case: str, given_proof: Proof, expected: set[str], proven: bool, fault: str | None
) -> None:
    pending = make_pending()
    assert take_proof(pending, "node-1", given_proof, expected, at(0.25)) is proven
    assert pending.proven_ms == ({"node-1": 250.0} if proven else {})
    assert pending.faults == ({} if fault is None else {"node-1": fault})


def test_the_first_proof_counts_and_a_good_one_clears_the_fault() -> None:
    pending = make_pending()
    take_proof(pending, "node-1", make_proof(served=None, fault="full"), {LEAF}, at(0.1))
    assert take_proof(pending, "node-1", make_proof(), {LEAF}, at(0.2))
    assert not take_proof(pending, "node-1", make_proof(), {LEAF}, at(9))
    assert (pending.proven_ms, pending.faults) == ({"node-1": 200.0}, {})


def test_the_event_names_the_slowest_and_the_others() -> None:
    pending = make_pending()
    pending.proven_ms.update(a=10.0, b=30.0, c=20.0, drained=99.0)
    fleet = make_nodes(
        "a",
        "b",
        "c",
        "silent",
        "drained",
        "gone",
        drained={"drained": True},
        gone={"removed": True},
    )
    body = build_converged(pending, ["a", "b", "c"], fleet)
    assert body is not None
    assert (body.nodes, body.p50_ms, body.p99_ms, body.slowest, body.slowest_ms) == (
        3,
        20.0,
        30.0,
        "b",
        30.0,
    )
    assert body.others == ["drained", "silent"]


def test_nothing_converges_while_one_is_missing_or_nobody_is_live() -> None:
    pending = make_pending()
    pending.proven_ms["a"] = 1.0
    assert build_converged(pending, ["a", "b"], make_nodes("a", "b")) is None
    assert build_converged(pending, [], make_nodes("a")) is None


def test_who_lags_is_named_with_the_fault_and_without_nodes_nobody_does() -> None:
    pending = make_pending()
    pending.proven_ms["a"] = 1.0
    pending.faults["b"] = "full"
    body = build_lagging(pending, ["a", "b", "c"], make_nodes("a", "b", "c"))
    assert body is not None
    assert (body.missing, body.faults) == (["b", "c"], {"b": "full"})
    silent = build_lagging(pending, [], make_nodes("a", "d", d={"drained": True}))
    assert silent is not None
    assert silent.missing == ["a"]
    assert build_lagging(pending, [], {}) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 99, 100]))
def test_a_percentile_is_one_of_the_values_and_enough_are_not_above_it(
    values: list[float], percent: int
) -> None:
    found = nearest_rank(values, percent)
    assert any(abs(found - value) <= 0.0005 for value in values)
    assert sum(value <= found + 0.0005 for value in values) >= len(values) * percent / 100


class TrackerStage:
    """A tracker with a bucket that holds what the test puts."""

    def __init__(self, fleet: dict[str, NodeRecord]) -> None:
        settings = EdgeSyncSettings.model_validate(
            {
                "nats_url": "x",
                "nats_seed_file": Path("x"),
                "operator_key_file": Path("x"),
                "trust_file": Path("x"),
                "edge_sync_dsn": "x",
                "edge_sync_signing_key_file": Path("x"),
            }
        )
        self.index = BucketIndex("today")
        self.fleet = fleet
        self.tracker = ConvergenceTracker(fleet, lambda: self.index, settings)
        self.tracker.start_term([], at(0).monotonic)

    def put(
        self, revision: int, sequence: int, seconds: float, served: str | None = LEAF
    ) -> PendingRevision:
        leaves = frozenset() if served is None else frozenset({served})
        kind = BundleKind.HTTP_ONLY if served is None else BundleKind.HTTPS
        pending = self.tracker.track_revision(make_pending(revision))
        self.tracker.expect_bundle(
            DesiredBundle(DOMAIN, revision, 1, kind, leaves, b"", f"{revision:064x}")
        )
        self.index.put(
            DOMAIN, StoredBundle(revision, 1, kind, leaves, f"{revision:064x}", sequence)
        )
        self.index.advance_to(sequence)
        pending.note_put(sequence, at(seconds).monotonic)
        return pending

    def hear(self, node: str, seconds: float, *proofs: Proof, **fields: Any) -> None:
        body = {
            "node": node,
            "incarnation": "today",
            "sequence": 0,
            "root": "00" * 32,
            "epochs": [1],
            "stale": False,
            "proofs": list(proofs),
            "logs": [],
            "nginx_restarts": 0,
            "time": T0,
        } | fields
        self.tracker.take_status(NodeStatus.model_validate(body), at(seconds))

    def settled(self) -> list[Converged | Lagging]:
        found = []
        while not self.tracker.settled.empty():
            found.append(self.tracker.settled.get_nowait())
        return found


def test_after_a_takeover_the_first_status_alone_is_not_every_node() -> None:
    stage = TrackerStage(make_nodes("a", "b"))
    stage.put(7, 1, 0)
    stage.hear("a", 0.1, make_proof())
    stage.tracker.check_pending(at(0.2))
    assert stage.settled() == []
    stage.hear("a", 5.05)
    stage.tracker.check_pending(at(5.2))
    (body,) = stage.settled()
    assert isinstance(body, Converged)
    assert (body.nodes, body.others) == (1, ["b"])


def test_a_new_term_starts_from_the_database_and_forgets_what_was_heard_before() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 1, 0)
    stage.hear("a", 0.1, make_proof(), sequence=1)
    assert len(stage.settled()) == 1
    stage.put(8, 2, 0.2, OTHER)
    stage.tracker.start_term([make_pending(9)], at(60).monotonic)
    assert stage.tracker.count_pending() == 1
    assert stage.tracker.take_unsaved() == []
    assert stage.tracker.live_nodes(at(61).monotonic) == ["a"]
    assert stage.tracker.live_epochs(at(61).monotonic) == {"a": frozenset()}
    stage.hear("a", 61, make_proof(8, OTHER))
    assert stage.settled() == []


def test_a_later_revision_proves_those_before_it() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 1, 0)
    stage.put(8, 2, 0.1, OTHER)
    stage.hear("a", 0.2, make_proof(8, OTHER))
    assert [body.revision for body in stage.settled()] == [7, 8]
    assert stage.tracker.count_pending() == 0


def test_a_proof_of_an_earlier_revision_does_not_prove_a_later_one() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 1, 0)
    stage.put(8, 2, 0.1, OTHER)
    stage.hear("a", 0.2, make_proof(7, LEAF))
    assert [body.revision for body in stage.settled()] == [7]


def test_a_digest_counts_only_when_the_proof_had_time_to_arrive() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 1, 0)
    same = {"sequence": 1, "root": stage.index.root()}
    stage.hear("a", 1.9, **same)
    stage.tracker.check_pending(at(1.95))
    assert stage.settled() == []
    stage.hear("a", 2.1, **same)
    stage.tracker.check_pending(at(2.2))
    (body,) = stage.settled()
    assert isinstance(body, Converged)
    assert body.slowest_ms == 2100


def test_a_digest_of_a_lost_bucket_proves_nothing_and_the_successor_s_does() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 50, 0)
    fresh = BucketIndex("tomorrow")
    held = stage.index.get(DOMAIN)
    assert held is not None
    stage.index = fresh
    stage.hear("a", 3, sequence=50, root="11" * 32)
    stage.tracker.check_pending(at(3.1))
    fresh.put(DOMAIN, StoredBundle(7, 1, held.kind, held.served, held.hash, 1))
    fresh.advance_to(1)
    stage.tracker.check_pending(at(3.2))
    assert stage.settled() == []
    stage.hear("a", 5.5, incarnation="tomorrow", sequence=1, root=fresh.root())
    stage.tracker.check_pending(at(5.6))
    assert len(stage.settled()) == 1


def test_lagging_is_told_once_after_its_time() -> None:
    stage = TrackerStage(make_nodes("a"))
    stage.put(7, 1, 0)
    for second in range(1, 64):
        stage.hear("a", second)
        stage.tracker.check_pending(at(second))
    (body,) = stage.settled()
    assert isinstance(body, Lagging)
    assert body.missing == ["a"]


def test_who_is_not_enrolled_or_was_removed_is_not_heard() -> None:
    stage = TrackerStage(make_nodes("a", "gone", gone={"removed": True}))
    stage.hear("stranger", 1)
    stage.hear("gone", 1)
    assert [node for node, _, _ in stage.tracker.take_unsaved()] == []
    stage.hear("a", 1, sequence=3)
    assert [(node, sequence) for node, _, sequence in stage.tracker.take_unsaved()] == [("a", 3)]
    assert stage.tracker.take_unsaved() == []


def test_the_view_of_a_node_tells_how_far_behind_it_is() -> None:
    stage = TrackerStage(make_nodes("a", "b", "c", b={"drained": True}, c={"removed": True}))
    stage.put(7, 4, 0)
    stage.hear("a", 1, sequence=3)
    views = {view.node: view for view in stage.tracker.view_nodes(at(2).monotonic)}
    assert (views["a"].state, views["a"].behind, views["a"].in_sync) == ("live", 1, False)
    assert (views["b"].state, views["c"].state) == ("drained", "removed")
    stage.hear("a", 2, sequence=4, root=stage.index.root())
    (view, *_) = stage.tracker.view_nodes(at(2).monotonic)
    assert (view.behind, view.in_sync) == (0, True)
    (view, *_) = stage.tracker.view_nodes(at(8).monotonic)
    assert view.state == "silent"
