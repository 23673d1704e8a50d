"""Missed and lost bundles are repaired; without a control plane the node serves its replica."""

from __future__ import annotations

from shared import subjects as s
from shared import topology as t
from tests.integration.edge_agent.conftest import EdgeSetup
from tests.integration.edge_agent.node_processes import NODE_ID
from tests.support.waiting import until


async def test_a_gap_in_the_live_stream_is_fetched_at_once_without_a_checkpoint(
    edge: EdgeSetup,
) -> None:
    await edge.put_https("a.test", 1)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    await edge.restart_broker_while_agent_sleeps()
    missed = await edge.put_https("b.test", 2)
    edge.wake_agent()
    # The agent is connected again once it reports: then its live subscription works too.
    await until(lambda: edge.control_plane.statuses, "the agent has reconnected")
    live = await edge.put_https("c.test", 3)
    await edge.node.wait_until_served("c.test", live)
    await edge.node.wait_until_served("b.test", missed)


async def test_a_silent_gap_is_repaired_at_the_next_checkpoint(edge: EdgeSetup) -> None:
    await edge.put_https("a.test", 1)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    await edge.restart_broker_while_agent_sleeps()
    missed = await edge.put_https("a.test", 2)
    edge.wake_agent()
    edge.control_plane.silent = False
    await edge.node.wait_until_served("a.test", missed)
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_a_new_bucket_is_read_from_its_start(edge: EdgeSetup) -> None:
    await edge.put_https("a.test", 1)
    await edge.put_https("gone.test", 2)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    edge.control_plane.silent = True
    admin = await edge.cluster.client("stream_admin")
    js = admin.jetstream(timeout=10)
    await js.delete_stream(s.kv_stream(s.BUCKET_BUNDLES))
    await t.apply(js)
    await admin.close()
    edge.control_plane.forget_domain("gone.test")
    for task in edge.control_plane.tasks:
        task.cancel()
    await edge.control_plane.start()
    replaced = await edge.put_https("a.test", 3)
    edge.control_plane.silent = False
    await edge.node.wait_until_served("a.test", replaced)
    await edge.node.wait_until_served("gone.test", None)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    assert not [
        file for file in edge.node.read_files() if b"gone.test" in file and b"pairs" in file
    ]


async def test_a_domain_that_the_signed_root_does_not_hold_is_dropped_and_a_missing_one_fetched(
    edge: EdgeSetup,
) -> None:
    await edge.put_https("gone.test", 1)
    kept = await edge.put_https("kept.test", 2)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    await edge.node.stop("agent")
    edge.control_plane.forget_domain("gone.test")
    for file in (edge.node.folder / "replica").glob("kept.test-*"):
        file.unlink()
    await edge.node.start("agent")
    await edge.node.wait_until_served("gone.test", None)
    await edge.node.wait_until_served("kept.test", kept)
    edge.control_plane.statuses.clear()
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_without_the_broker_a_node_starts_and_serves_its_replica(edge: EdgeSetup) -> None:
    leaf, disabled = await edge.put_https("a.test", 1), await edge.put_https("b.test", 2)
    await edge.node.wait_until_served("b.test", disabled)
    await edge.control_plane.put_bundle(edge.signers.make_bundle("b.test", 3))
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    await edge.node.stop()
    await edge.control_plane.stop()
    await edge.cluster.stop_broker()
    await edge.node.start()
    await edge.node.wait_until_served("a.test", leaf)
    assert await edge.node.served_leaf("b.test") is None
    await edge.restart_broker()
    await edge.control_plane.start()
    later = await edge.put_https("a.test", 4)
    await edge.node.wait_until_served("a.test", later)


async def test_an_nginx_that_was_killed_is_filled_again_at_once(edge: EdgeSetup) -> None:
    leaves = {f"d{n}.test": await edge.put_https(f"d{n}.test", n + 1) for n in range(20)}
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    await edge.node.crash("nginx")
    await edge.node.start("nginx")
    for domain, leaf in leaves.items():
        await edge.node.wait_until_served(domain, leaf)
    await until(
        lambda: edge.control_plane.statuses[-1].nginx_restarts == 1, "the restart is reported"
    )
    await edge.control_plane.wait_until_in_sync(NODE_ID)


async def test_a_bundle_sealed_to_a_new_epoch_is_served_once_the_keyring_came(
    edge: EdgeSetup,
) -> None:
    await edge.put_https("a.test", 1)
    await edge.control_plane.wait_until_in_sync(NODE_ID)
    edge.control_plane.silent = True
    assert edge.signers.fleet.add_epoch() == 2
    sealed = await edge.put_https("a.test", 2)
    fault = await edge.control_plane.wait_for_proof("a.test", 2)
    assert "epoch 2" in (fault.fault or "")
    await edge.control_plane.put_keyring(s.keyring_node(NODE_ID), edge.sign_enrolment())
    await edge.node.wait_until_served("a.test", sealed)
    await until(
        lambda: edge.control_plane.statuses[-1].epochs == [1, 2], "the new epoch is reported"
    )
