"""Observed state back: who serves what, how long it took, who lags, and who goes on after a replica
dies."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from clients.fleet import commands
from shared import catalogue
from shared.contracts.edge import BundleKind
from shared.contracts.queries import ConvergenceView, ShowConvergence
from shared.messaging.rpc import ask
from tests.integration.edge_sync.harness import World
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def convergence(world: World, domain: str = DOMAIN) -> ConvergenceView:
    question = ShowConvergence(domain=domain)
    return await ask(
        world.clients["platform"],
        catalogue.RPC_EDGE_CONVERGENCE,
        question,
        timeout=2,
    )


async def test_a_revision_has_converged_when_every_live_node_has_proven_it(world: World) -> None:
    await world.run()
    for name in ("node-1", "node-2", "node-3"):
        await world.node(name)
    await world.order(commands.drain(world.fleet, "node-3", datetime.now(UTC)))
    await world.until_state("node-3", "drained")
    bundle = await world.config.change(DOMAIN)
    body = await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert (body["nodes"], body["others"], body["command_id"]) == (2, ["node-3"], "command-1")
    assert body["slowest"] in ("node-1", "node-2")
    assert 0 < body["p50_ms"] <= body["p99_ms"] == body["slowest_ms"] < 1000
    view = await convergence(world)
    assert (view.revision, view.converged_revision, view.converged_ms) == (1, 1, body["slowest_ms"])
    await until(
        lambda: any(p["proven"] == p["nodes"] == 2 for p in world.progress), "the progress was told"
    )


async def test_a_superseded_revision_converges_by_the_proof_of_the_later_one(world: World) -> None:
    await world.run()
    node = await world.node("node-1", proves=False)
    first = await world.config.change(DOMAIN)
    await world.until_held(first)
    node.proves = True
    second = await world.config.change(DOMAIN)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=first.revision)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=second.revision)


async def test_a_lost_proof_is_replaced_by_the_digest(world: World) -> None:
    await world.run()
    await world.node("node-1", proves=False)
    bundle = await world.config.change(DOMAIN)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)


async def test_a_disable_has_converged_when_handshakes_are_refused(world: World) -> None:
    await world.run()
    await world.node("node-1")
    await world.until_told(
        catalogue.EVENT_EDGE_CONVERGED, revision=(await world.config.change(DOMAIN)).revision
    )
    off = await world.config.change(DOMAIN, BundleKind.HTTP_ONLY)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=off.revision)


async def test_a_node_that_cannot_apply_is_named_as_lagging_once_and_converges_later(
    world: World,
) -> None:
    await world.run()
    good = await world.node("node-1")
    bad = await world.node("node-2", fault="the zone is full")
    bundle = await world.config.change(DOMAIN)
    body = await world.until_told(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert (body["missing"], body["faults"]) == (["node-2"], {"node-2": "the zone is full"})
    view = await convergence(world)
    assert (view.proven, view.missing, view.converged_revision) == (["node-1"], ["node-2"], None)
    bad.fault = None
    second = await world.config.change(DOMAIN)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=second.revision)
    assert len(world.told(catalogue.EVENT_EDGE_LAGGING)) == 1
    assert good.bundles[DOMAIN] == second


async def test_a_silent_node_is_named_and_not_waited_for_and_without_a_live_node_nothing_converges(
    world: World,
) -> None:
    await world.run()
    silent = await world.node("node-1")
    silent.reports = silent.proves = False
    await world.until_state("node-1", "silent")
    bundle = await world.config.change(DOMAIN)
    body = await world.until_told(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert body["missing"] == ["node-1"]
    assert not world.told(catalogue.EVENT_EDGE_CONVERGED)
    await world.node("node-2")
    body = await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert (body["nodes"], body["others"]) == (1, ["node-1"])


async def test_a_node_speaks_for_itself_only_and_when_it_is_enrolled(world: World) -> None:
    await world.run()
    node = await world.node("node-1")
    stranger = await world.node("node-2")
    await world.order(commands.remove(world.fleet, "node-2", datetime.now(UTC)))
    await world.until_state("node-2", "removed")
    stranger.reports = False
    status = node.status().model_copy(update={"node": "node-1", "sequence": 999})
    await stranger.client.publish(catalogue.EDGE_STATUS.for_node("node-2"), status.encode())
    await stranger.report()
    bundle = await world.config.change(DOMAIN)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision, nodes=1)
    views = {view.node: view for view in (await world.view()).nodes}
    assert views["node-1"].sequence == 1
    assert views["node-2"].state == "removed"


async def test_pending_revisions_survive_a_killed_replica_and_the_standby_takes_over(
    world: World,
) -> None:
    first = await world.run("first", LIVE_SECONDS="5")
    node = await world.node("node-1", proves=False, fault="not yet")
    bundle = await world.config.change(DOMAIN)
    await world.until_held(bundle)
    second = await world.run("second", LIVE_SECONDS="5")
    await first.kill()
    killed = time.monotonic()
    seen = len(node.checkpoints)
    await until(lambda: len(node.checkpoints) > seen, "the standby tells checkpoints", limit=8)
    assert time.monotonic() - killed < 6
    node.fault = None
    node.digest.put(DOMAIN, bundle.revision, node.checkpoints and _hash(bundle))
    body = await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert body["nodes"] == 1
    await world.ready(second)
    await world.until_held(await world.config.change("other.example.test"))


def _hash(bundle: object) -> str:
    from hashlib import sha256

    return sha256(bundle.encode()).hexdigest()  # type: ignore[attr-defined]
