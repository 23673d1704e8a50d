"""Commands of the operator: their effect, and what is refused."""

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
from shared.crypto.signing import Purpose, Signer
from shared.errors import Unsigned
from tests.integration.edge_sync.harness import EdgeSyncStage
from tests.support.waiting import until


async def read_sealing(stage: EdgeSyncStage) -> SealingEpoch | None:
    """Return the bucket's sealing statement, its signature checked."""
    stored = await stage.keyrings.last(s.KEYRING_SEALING)
    if stored is None:
        return None
    edge_sync = stage.trust.verifier("edge_sync")
    return edge_sync.open_bytes(Purpose.SEALING, stored.body, SealingEpoch)


async def read_sealing_epoch(stage: EdgeSyncStage) -> int | None:
    statement = await read_sealing(stage)
    return None if statement is None else statement.epoch


async def wait_for_sealing(stage: EdgeSyncStage, epoch: int) -> None:
    async def is_sealed_to() -> bool:
        return await read_sealing_epoch(stage) == epoch

    await until(is_sealed_to, f"epoch {epoch} is sealed to")


async def test_an_enrolled_node_finds_its_keyring_as_the_operator_signed_it(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica()
    node = await stage.add_node("node-1")
    stored = await stage.keyrings.last(s.keyring_node("node-1"))
    assert stored is not None
    body = stage.trust.operator.open_bytes(Purpose.ENROL, stored.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1]
    await stage.wait_for_event(catalogue.EVENT_NODE_ENROLLED, node="node-1")
    assert [(one.node, one.state) for one in (await stage.show_fleet()).nodes] == [
        ("node-1", "live")
    ]
    assert node.epochs == [1]


async def test_the_first_epoch_is_sealed_to_at_once_and_the_next_when_the_live_nodes_have_it(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica(SEALING_SECONDS="60")
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await wait_for_sealing(stage, 1)
    node = await stage.add_node("node-1")
    with FleetFile.edit(stage.cluster.keys.files.fleet_file) as fleet:
        fleet.mark_node("node-1", "enrolled")
        assert fleet.add_epoch() == 2
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await node.wait_for_checkpoint(epoch=2)
    stored = await stage.keyrings.last(s.keyring_epoch(2))
    assert stored is not None
    assert stage.trust.operator.open_bytes(Purpose.EPOCH, stored.body, EpochKey).epoch == 2
    keyring = await stage.keyrings.last(s.keyring_node("node-1"))
    assert keyring is not None
    body = stage.trust.operator.open_bytes(Purpose.ENROL, keyring.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1, 2]
    assert await read_sealing_epoch(stage) == 1
    node.epochs = [1, 2]
    await wait_for_sealing(stage, 2)


async def test_a_new_epoch_does_not_wait_for_ever_for_a_node(stage: EdgeSyncStage) -> None:
    await stage.start_replica()
    await stage.add_node("node-1", epochs=[])
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await wait_for_sealing(stage, 1)


async def test_an_unsigned_command_and_one_signed_by_somebody_else_are_refused(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica()
    await stage.add_node("node-1")
    command = DrainNode(node="node-1", issued_at=datetime.now(UTC))
    impostor = Signer.generate("operator").sign(Purpose.DRAIN, command)
    for_another_purpose = stage.fleet.operator_signer().sign(Purpose.REMOVE, command)
    for body in (command, impostor, for_another_purpose):
        await stage.send_commands(
            commands.FleetCommand(catalogue.CMD_NODE_DRAIN, body, "node-1", f"test-{id(body)}")
        )

    async def has_three_letters() -> bool:
        return len(await stage.list_dead_letters()) >= 3

    await until(has_three_letters, "three dead letters")
    found = await stage.list_dead_letters()
    assert [reason.split(":")[0] for reason in found] == ["malformed", "unsigned", "unsigned"]
    assert (await stage.show_fleet()).nodes[0].state == "live"


async def test_a_replayed_command_changes_nothing(stage: EdgeSyncStage) -> None:
    await stage.start_replica()
    await stage.add_node("node-1")
    at = datetime.now(UTC)
    drain = commands.drain_node(stage.fleet, "node-1", at)
    await stage.send_commands(drain)
    await stage.wait_for_state("node-1", "drained")
    await stage.send_commands(
        commands.return_node(stage.fleet, "node-1", at + timedelta(seconds=1))
    )
    await stage.wait_for_event(catalogue.EVENT_NODE_RETURNED)
    await stage.send_commands(drain._replace(id="replayed"))
    await stage.send_commands(
        commands.label_node(stage.fleet, "node-1", {"city": "x"}, at + timedelta(seconds=2))
    )
    await stage.wait_for_event(catalogue.EVENT_NODE_LABELLED)
    (view,) = (await stage.show_fleet()).nodes
    assert (view.state, view.labels) == ("live", {"city": "x"})
    assert len(stage.find_events(catalogue.EVENT_NODE_DRAINED)) == 1


async def test_a_removed_node_loses_its_keyring_and_an_old_enrolment_does_not_bring_it_back(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica()
    await stage.add_node("node-1")
    old = commands.enrol_node(stage.fleet, "node-1", datetime.now(UTC))
    await stage.send_commands(old)
    await stage.send_commands(commands.remove_node(stage.fleet, "node-1", datetime.now(UTC)))
    await stage.wait_for_event(catalogue.EVENT_NODE_REMOVED, node="node-1")
    await until(lambda: _is_erased(stage, s.keyring_node("node-1")), "the keyring is erased")
    await stage.send_commands(old._replace(id="replayed"))
    await stage.add_node("node-2")
    assert await stage.keyrings.last(s.keyring_node("node-1")) is None
    assert [(one.node, one.state) for one in (await stage.show_fleet()).nodes] == [
        ("node-1", "removed"),
        ("node-2", "live"),
    ]


async def test_only_a_higher_trust_document_replaces_the_one_in_the_bucket(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica()
    first = commands.publish_trust(stage.fleet)
    await stage.send_commands(first)
    stored = await until(
        lambda: stage.keyrings.last(s.KEYRING_TRUST), "the trust document is there"
    )
    assert isinstance(first.body, Signed)
    assert parse(Signed, stored.body) == first.body
    fleet = stage.fleet
    keys = [
        key.model_copy(update={"not_after": key.not_after + timedelta(days=1)})
        for key in fleet.trust_keys
    ]
    newer = commands.sign_trust(fleet, keys, datetime.now(UTC))
    await stage.send_commands(commands.publish_trust(fleet))
    await until(lambda: _holds_trust(stage, newer), "the newer one replaces it")
    await stage.send_commands(first._replace(id="replayed"))
    await stage.add_node("node-1")
    assert await _holds_trust(stage, newer)


async def _is_erased(stage: EdgeSyncStage, key: str) -> bool:
    return await stage.keyrings.last(key) is None


async def _holds_trust(stage: EdgeSyncStage, document: Signed) -> bool:
    stored = await stage.keyrings.last(s.KEYRING_TRUST)
    return stored is not None and parse(Signed, stored.body) == document


async def test_the_epoch_that_is_sealed_to_differs_from_the_newest_and_is_repeated(
    stage: EdgeSyncStage,
) -> None:
    await stage.start_replica(SEALING_SECONDS="60")
    node = await stage.add_node("node-1")
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await wait_for_sealing(stage, 1)
    with FleetFile.edit(stage.cluster.keys.files.fleet_file) as fleet:
        assert fleet.add_epoch() == 2
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await node.wait_for_checkpoint(epoch=2)
    view = await stage.show_fleet()
    assert (view.epoch, view.sealing_epoch) == (2, 1)

    connection = PlatformConnection(stage.clients["operator"], "", "operator", 5)
    edge_sync = stage.trust.verifier("edge_sync")
    switch = asyncio.create_task(wait_until_sealing(connection, edge_sync, 2))
    first = await read_sealing(stage)
    assert first is not None

    async def is_repeated() -> bool:
        statement = await read_sealing(stage)
        assert statement is not None
        return statement.epoch == first.epoch and statement.at > first.at

    await until(is_repeated, "the statement is repeated")
    assert not switch.done(), "started is not sealed to"
    node.epochs = [1, 2]
    await asyncio.wait_for(switch, 10)
    view = await stage.show_fleet()
    assert (view.epoch, view.sealing_epoch, await read_sealing_epoch(stage)) == (2, 2, 2)
    with pytest.raises(Unsigned):
        await wait_until_sealing(connection, stage.trust.verifier("validator"), 2)


async def test_a_lower_epoch_never_replaces_a_higher_one(stage: EdgeSyncStage) -> None:
    await stage.start_replica()
    await stage.send_commands(*commands.start_epoch(stage.fleet, datetime.now(UTC)))
    await wait_for_sealing(stage, 1)
    signer = stage.cluster.keys.edge_sync
    held = await stage.keyrings.last(s.KEYRING_SEALING)
    assert held is not None
    higher = signer.sign(Purpose.SEALING, SealingEpoch(epoch=7, at=datetime.now(UTC))).encode()
    await stage.keyrings.put(s.KEYRING_SEALING, higher, held.sequence)
    log = stage.replicas[0].log_file
    await until(lambda: "epoch.behind" in log.read_text(), "the lower epoch is held back")
    assert await read_sealing_epoch(stage) == 7
