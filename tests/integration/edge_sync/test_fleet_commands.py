"""The operator's word, and nobody else's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.rotation import wait_until_sealing
from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.platform.connection import PlatformConnection
from shared import catalogue
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.commands import DrainNode, EnrolNode, EpochKey
from shared.contracts.edge import SealingEpoch
from shared.contracts.queries import ListDead
from shared.crypto.signing import Purpose, Signer
from shared.errors import Unsigned
from shared.messaging.rpc import ask
from shared.runtime import read_signer
from tests.integration.edge_sync.harness import World
from tests.support.waiting import until


async def reasons(world: World) -> list[str]:
    page = await ask(world.clients["operator"], catalogue.RPC_DEAD_LIST["edge_sync"], ListDead())
    return [letter.reason for letter in page.letters]


async def sealing(world: World) -> int | None:
    stored = await world.keyrings.last(s.KEYRING_SEALING)
    if stored is None:
        return None
    return (
        world.trust.verifier("edge_sync")
        .open_bytes(Purpose.SEALING, stored.body, SealingEpoch)
        .epoch
    )


async def test_an_enrolled_node_finds_its_keyring_as_the_operator_signed_it(world: World) -> None:
    await world.run()
    node = await world.node("node-1")
    stored = await world.keyrings.last(s.keyring_node("node-1"))
    assert stored is not None
    body = world.trust.operator.open_bytes(Purpose.ENROL, stored.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1]
    await world.until_told(catalogue.EVENT_NODE_ENROLLED, node="node-1")
    assert [(one.node, one.state) for one in (await world.view()).nodes] == [("node-1", "live")]
    assert node.epochs == [1]


async def test_the_first_epoch_is_sealed_to_at_once_and_the_next_when_the_live_nodes_have_it(
    world: World,
) -> None:
    await world.run(SEALING_SECONDS="60")
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(lambda: sealing(world), "epoch 1 is sealed to")
    node = await world.node("node-1")
    with FleetFile.edit(world.ground.keys.fleet_file) as fleet:
        fleet.mark("node-1", "enrolled")
        assert fleet.new_epoch() == 2
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(
        lambda: node.checkpoints and node.checkpoints[-1].epoch == 2,
        "the checkpoint tells of epoch 2",
    )
    stored = await world.keyrings.last(s.keyring_epoch(2))
    assert stored is not None
    assert world.trust.operator.open_bytes(Purpose.EPOCH, stored.body, EpochKey).epoch == 2
    keyring = await world.keyrings.last(s.keyring_node("node-1"))
    assert keyring is not None
    body = world.trust.operator.open_bytes(Purpose.ENROL, keyring.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1, 2]
    assert await sealing(world) == 1
    node.epochs = [1, 2]
    await until(lambda: _is(world, 2), "epoch 2 is sealed to")


async def test_a_new_epoch_does_not_wait_for_ever_for_a_node(world: World) -> None:
    await world.run()
    await world.node("node-1", epochs=[])
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(lambda: _is(world, 1), "epoch 1 is sealed to after its patience")


async def test_an_unsigned_command_and_one_signed_by_somebody_else_are_refused(
    world: World,
) -> None:
    await world.run()
    await world.node("node-1")
    order = DrainNode(node="node-1", issued_at=datetime.now(UTC))
    impostor = Signer.generate("operator").sign(Purpose.DRAIN, order)
    for_another_purpose = world.fleet.operator().sign(Purpose.REMOVE, order)
    for body in (order, impostor, for_another_purpose):
        await world.order(
            commands.Command(catalogue.CMD_NODE_DRAIN, body, "node-1", f"test-{id(body)}")
        )
    found = await until(lambda: _at_least(world, 3), "three dead letters")
    assert [reason.split(":")[0] for reason in found] == ["malformed", "unsigned", "unsigned"]
    assert (await world.view()).nodes[0].state == "live"


async def test_a_replayed_command_changes_nothing(world: World) -> None:
    await world.run()
    await world.node("node-1")
    at = datetime.now(UTC)
    drain = commands.drain(world.fleet, "node-1", at)
    await world.order(drain)
    await world.until_state("node-1", "drained")
    await world.order(commands.bring_back(world.fleet, "node-1", at + timedelta(seconds=1)))
    await world.until_told(catalogue.EVENT_NODE_RETURNED)
    await world.order(drain._replace(id="replayed"))
    await world.order(
        commands.label(world.fleet, "node-1", {"city": "x"}, at + timedelta(seconds=2))
    )
    await world.until_told(catalogue.EVENT_NODE_LABELLED)
    (view,) = (await world.view()).nodes
    assert (view.state, view.labels) == ("live", {"city": "x"})
    assert len(world.told(catalogue.EVENT_NODE_DRAINED)) == 1


async def test_a_removed_node_loses_its_keyring_and_an_old_enrolment_does_not_bring_it_back(
    world: World,
) -> None:
    await world.run()
    await world.node("node-1")
    old = commands.enrol(world.fleet, "node-1", datetime.now(UTC))
    await world.order(old)
    await world.order(commands.remove(world.fleet, "node-1", datetime.now(UTC)))
    await world.until_told(catalogue.EVENT_NODE_REMOVED, node="node-1")
    await until(lambda: _gone(world, s.keyring_node("node-1")), "the keyring is erased")
    await world.order(old._replace(id="replayed"))
    await world.node("node-2")
    assert await world.keyrings.last(s.keyring_node("node-1")) is None
    assert [(one.node, one.state) for one in (await world.view()).nodes] == [
        ("node-1", "removed"),
        ("node-2", "live"),
    ]


async def test_only_a_higher_trust_document_replaces_the_one_in_the_bucket(world: World) -> None:
    await world.run()
    first = commands.publish_trust(world.fleet)
    await world.order(first)
    stored = await until(
        lambda: world.keyrings.last(s.KEYRING_TRUST), "the trust document is there"
    )
    assert isinstance(first.body, Signed)
    assert parse(Signed, stored.body) == first.body
    fleet = world.fleet
    keys = [
        key.model_copy(update={"not_after": key.not_after + timedelta(days=1)})
        for key in fleet.trust_keys
    ]
    newer = commands.sign_trust(fleet, keys, datetime.now(UTC))
    await world.order(commands.publish_trust(fleet))
    await until(lambda: _holds(world, newer), "the newer one replaces it")
    await world.order(first._replace(id="replayed"))
    await world.node("node-1")
    assert await _holds(world, newer)


async def _is(world: World, epoch: int) -> bool:
    return await sealing(world) == epoch


async def _at_least(world: World, number: int) -> list[str]:
    found = await reasons(world)
    return found if len(found) >= number else []


async def _gone(world: World, key: str) -> bool:
    return await world.keyrings.last(key) is None


async def _holds(world: World, document: Signed) -> bool:
    stored = await world.keyrings.last(s.KEYRING_TRUST)
    return stored is not None and parse(Signed, stored.body) == document


async def test_the_epoch_that_is_sealed_to_is_told_apart_from_the_newest_and_said_again(
    world: World,
) -> None:
    await world.run(SEALING_SECONDS="60")
    node = await world.node("node-1")
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(lambda: _is(world, 1), "epoch 1 is sealed to")
    with FleetFile.edit(world.ground.keys.fleet_file) as fleet:
        assert fleet.new_epoch() == 2
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(lambda: node.checkpoints and node.checkpoints[-1].epoch == 2, "epoch 2 is started")
    view = await world.view()
    assert (view.epoch, view.sealing_epoch) == (2, 1)

    connection = PlatformConnection(world.clients["operator"], "", "operator", 5)
    edge_sync = world.trust.verifier("edge_sync")
    switch = asyncio.create_task(wait_until_sealing(connection, edge_sync, 2))
    first = await _word(world)
    await until(lambda: _newer(world, first), "it is said again")
    assert not switch.done(), "started is not sealed to"
    node.epochs = [1, 2]
    await asyncio.wait_for(switch, 10)
    view = await world.view()
    assert (view.epoch, view.sealing_epoch, await sealing(world)) == (2, 2, 2)
    with pytest.raises(Unsigned):
        await wait_until_sealing(connection, world.trust.verifier("validator"), 2)


async def test_a_lower_epoch_is_never_said_over_a_higher_one(world: World) -> None:
    await world.run()
    await world.order(*commands.start_epoch(world.fleet, datetime.now(UTC)))
    await until(lambda: _is(world, 1), "epoch 1 is sealed to")
    signer = read_signer(world.ground.keys.signer("edge_sync"), "edge_sync")
    held = await world.keyrings.last(s.KEYRING_SEALING)
    assert held is not None
    higher = signer.sign(Purpose.SEALING, SealingEpoch(epoch=7, at=datetime.now(UTC))).encode()
    await world.keyrings.put(s.KEYRING_SEALING, higher, held.sequence)
    log = world.replicas[0].log
    await until(lambda: "epoch.behind" in log.read_text(), "it finds that it is behind")
    assert await sealing(world) == 7


async def _word(world: World) -> SealingEpoch:
    stored = await world.keyrings.last(s.KEYRING_SEALING)
    assert stored is not None
    return world.trust.verifier("edge_sync").open_bytes(Purpose.SEALING, stored.body, SealingEpoch)


async def _newer(world: World, than: SealingEpoch) -> bool:
    word = await _word(world)
    return word.epoch == than.epoch and word.at > than.at
