"""Observed state: which nodes serve a revision, how long it took, which lag, and the takeover by a
standby."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from clients.fleet import commands
from shared import catalogue
from shared.contracts.edge import BundleKind
from shared.contracts.queries import ConvergenceView, ShowConvergence
from shared.messaging.rpc import ask
from tests.integration.edge_sync.harness import EdgeSyncHarness
from tests.support.fakes.config_and_nodes import hash_bundle
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def show_convergence(harness: EdgeSyncHarness, domain: str = DOMAIN) -> ConvergenceView:
    client = harness.clients["platform"]
    question = ShowConvergence(domain=domain)
    return await ask(client, catalogue.RPC_EDGE_CONVERGENCE, question, timeout=2)


async def test_a_revision_has_converged_when_every_live_node_has_proven_it(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    for name in ("node-1", "node-2", "node-3"):
        await harness.add_node(name)
    await harness.send_commands(commands.drain_node(harness.fleet, "node-3", datetime.now(UTC)))
    await harness.wait_for_state("node-3", "drained")
    bundle = await harness.config.change_domain(DOMAIN)
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert (body["nodes"], body["others"], body["command_id"]) == (2, ["node-3"], "command-1")
    assert body["slowest"] in ("node-1", "node-2")
    assert 0 < body["p50_ms"] <= body["p99_ms"] == body["slowest_ms"] < 1000
    view = await show_convergence(harness)
    assert (view.revision, view.converged_revision, view.converged_ms) == (1, 1, body["slowest_ms"])
    await until(
        lambda: any(p["proven"] == p["nodes"] == 2 for p in harness.progress), "the whole progress"
    )


async def test_a_superseded_revision_converges_by_the_proof_of_the_later_one(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    node = await harness.add_node("node-1", proves=False)
    first = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(first)
    node.proves = True
    second = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=first.revision)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=second.revision)


async def test_a_lost_proof_is_replaced_by_the_digest(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    await harness.add_node("node-1", proves=False)
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)


async def test_a_disable_has_converged_when_handshakes_are_refused(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    await harness.add_node("node-1")
    await harness.wait_for_event(
        catalogue.EVENT_EDGE_CONVERGED,
        revision=(await harness.config.change_domain(DOMAIN)).revision,
    )
    off = await harness.config.change_domain(DOMAIN, BundleKind.HTTP_ONLY)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=off.revision)


async def test_a_node_that_cannot_apply_is_named_as_lagging_once_and_converges_later(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    good = await harness.add_node("node-1")
    bad = await harness.add_node("node-2", fault="the zone is full")
    bundle = await harness.config.change_domain(DOMAIN)
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert (body["missing"], body["faults"]) == (["node-2"], {"node-2": "the zone is full"})
    view = await show_convergence(harness)
    assert (view.proven, view.missing, view.converged_revision) == (["node-1"], ["node-2"], None)
    bad.fault = None
    second = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=second.revision)
    assert len(harness.find_events(catalogue.EVENT_EDGE_LAGGING)) == 1
    assert good.bundles[DOMAIN] == second


async def test_a_silent_node_is_named_and_not_waited_for_and_without_a_live_node_nothing_converges(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    silent = await harness.add_node("node-1")
    silent.reports = silent.proves = False
    await harness.wait_for_state("node-1", "silent")
    bundle = await harness.config.change_domain(DOMAIN)
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert body["missing"] == ["node-1"]
    assert not harness.find_events(catalogue.EVENT_EDGE_CONVERGED)
    await harness.add_node("node-2")
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert (body["nodes"], body["others"]) == (1, ["node-1"])


async def test_a_node_speaks_for_itself_only_and_when_it_is_enrolled(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    node = await harness.add_node("node-1")
    stranger = await harness.add_node("node-2")
    await harness.send_commands(commands.remove_node(harness.fleet, "node-2", datetime.now(UTC)))
    await harness.wait_for_state("node-2", "removed")
    stranger.reports = False
    status = node.build_status().model_copy(update={"node": "node-1", "sequence": 999})
    await stranger.client.publish(catalogue.EDGE_STATUS.for_node("node-2"), status.encode())
    await stranger.publish_status()
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision, nodes=1)
    views = {view.node: view for view in (await harness.show_fleet()).nodes}
    assert views["node-1"].sequence == 1
    assert views["node-2"].state == "removed"


async def test_pending_revisions_survive_a_killed_replica_and_the_standby_takes_over(
    harness: EdgeSyncHarness,
) -> None:
    first = await harness.start_replica("first", LIVE_SECONDS="5")
    node = await harness.add_node("node-1", proves=False, fault="not yet")
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(bundle)
    second = await harness.start_replica("second", LIVE_SECONDS="5")
    await first.kill_and_wait()
    killed = time.monotonic()
    seen = len(node.checkpoints)
    await node.wait_for_more_checkpoints(seen)
    # A lease lives for 3 s; the rest is for a machine that is busy.
    assert time.monotonic() - killed < 30
    node.fault = None
    node.digest.put(DOMAIN, bundle.revision, hash_bundle(bundle))
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert body["nodes"] == 1
    await second.until_ready()
    await harness.wait_for_bundle(await harness.config.change_domain("other.example.test"))
