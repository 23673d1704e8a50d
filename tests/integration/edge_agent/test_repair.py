"""What is missed, lost or gone is repaired; without a control plane the node serves what it has."""

from __future__ import annotations

import signal

from shared import subjects as s
from shared import topology as t
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import NODE
from tests.support.waiting import until


async def test_a_gap_in_the_live_stream_is_fetched_at_once_without_a_checkpoint(
    stage: Stage,
) -> None:
    await stage.https("a.test", 1)
    await stage.control.agrees(NODE)
    await stage.restart_broker_unheard()
    missed = await stage.https("b.test", 2)
    stage.agent_wakes()
    # The agent is back when it reports; what it listens to by then is live again.
    await until(lambda: stage.control.statuses, "the agent has reconnected")
    live = await stage.https("c.test", 3)
    await stage.node.serves("c.test", live)
    await stage.node.serves("b.test", missed, limit=2)


async def test_a_silent_gap_shows_at_the_next_checkpoint(stage: Stage) -> None:
    await stage.https("a.test", 1)
    await stage.control.agrees(NODE)
    await stage.restart_broker_unheard()
    missed = await stage.https("a.test", 2)
    stage.agent_wakes()
    stage.control.silent = False
    await stage.node.serves("a.test", missed)
    await stage.control.agrees(NODE)


async def test_a_bucket_that_was_made_anew_is_read_from_its_start(stage: Stage) -> None:
    await stage.https("a.test", 1)
    await stage.https("gone.test", 2)
    await stage.control.agrees(NODE)
    stage.control.silent = True
    storekeeper = await stage.broker.login("storekeeper")
    js = storekeeper.jetstream(timeout=10)
    await js.delete_stream(s.kv_stream(s.BUCKET_BUNDLES))
    await t.apply(js)
    await storekeeper.close()
    stage.control.forget("gone.test")
    for task in stage.control.tasks:
        task.cancel()
    await stage.control.start()
    replaced = await stage.https("a.test", 3)
    stage.control.silent = False
    await stage.node.serves("a.test", replaced)
    await stage.node.serves("gone.test", None)
    await stage.control.agrees(NODE)
    assert not [file for file in stage.node.files() if b"gone.test" in file and b"pairs" in file]


async def test_a_domain_that_the_signed_root_does_not_hold_is_dropped_and_a_missing_one_fetched(
    stage: Stage,
) -> None:
    await stage.https("gone.test", 1)
    kept = await stage.https("kept.test", 2)
    await stage.control.agrees(NODE)
    stage.node.stop("agent")
    stage.control.forget("gone.test")
    for file in (stage.node.folder / "replica").glob("kept.test-*"):
        file.unlink()
    stage.node.start("agent")
    await stage.node.serves("gone.test", None)
    await stage.node.serves("kept.test", kept)
    stage.control.statuses.clear()
    await stage.control.agrees(NODE)


async def test_without_the_broker_a_node_starts_and_serves_its_replica(stage: Stage) -> None:
    leaf, disabled = await stage.https("a.test", 1), await stage.https("b.test", 2)
    await stage.node.serves("b.test", disabled)
    await stage.control.put(stage.signers.bundle("b.test", 3))
    await stage.control.agrees(NODE)
    stage.node.stop()
    await stage.control.stop()
    stage.broker.stop()
    stage.node.start()
    await stage.node.serves("a.test", leaf)
    assert await stage.node.served("b.test") is None
    await stage.restart_broker()
    await stage.control.start()
    later = await stage.https("a.test", 4)
    await stage.node.serves("a.test", later)


async def test_an_nginx_that_was_killed_is_filled_again_at_once(stage: Stage) -> None:
    leaves = {f"d{n}.test": await stage.https(f"d{n}.test", n + 1) for n in range(20)}
    await stage.control.agrees(NODE)
    stage.node.stop("nginx", number=signal.SIGKILL)
    stage.node.start("nginx")
    for domain, leaf in leaves.items():
        await stage.node.serves(domain, leaf)
    await until(lambda: stage.control.statuses[-1].nginx_restarts == 1, "the restart is reported")
    await stage.control.agrees(NODE)


async def test_a_bundle_sealed_to_a_new_epoch_is_served_once_the_keyring_came(stage: Stage) -> None:
    await stage.https("a.test", 1)
    await stage.control.agrees(NODE)
    stage.control.silent = True
    assert stage.signers.fleet.new_epoch() == 2
    sealed = await stage.https("a.test", 2)
    fault = await stage.control.proof("a.test", 2)
    assert "epoch 2" in (fault.fault or "")
    await stage.control.put_keyring(s.keyring_node(NODE), stage.enrolment())
    await stage.node.serves("a.test", sealed)
    await until(lambda: stage.control.statuses[-1].epochs == [1, 2], "the new epoch is reported")
