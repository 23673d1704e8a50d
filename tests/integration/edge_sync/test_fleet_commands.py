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
from tests.integration.edge_sync.harness import EdgeSyncHarness
from tests.support.waiting import until


async def read_sealing(harness: EdgeSyncHarness) -> SealingEpoch | None:
    """Return the bucket's sealing statement, its signature checked."""
    stored = await harness.keyrings.last(s.KEYRING_SEALING)
    if stored is None:
        return None
    edge_sync = harness.trust.verifier("edge_sync")
    return edge_sync.open_bytes(Purpose.SEALING, stored.body, SealingEpoch)


async def read_sealing_epoch(harness: EdgeSyncHarness) -> int | None:
    statement = await read_sealing(harness)
    return None if statement is None else statement.epoch


async def wait_for_sealing(harness: EdgeSyncHarness, epoch: int) -> None:
    async def is_sealed_to() -> bool:
        return await read_sealing_epoch(harness) == epoch

    await until(is_sealed_to, f"epoch {epoch} is sealed to")


async def test_an_enrolled_node_finds_its_keyring_as_the_operator_signed_it(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    node = await harness.add_node("node-1")
    stored = await harness.keyrings.last(s.keyring_node("node-1"))
    assert stored is not None
    body = harness.trust.operator.open_bytes(Purpose.ENROL, stored.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1]
    await harness.wait_for_event(catalogue.EVENT_NODE_ENROLLED, node="node-1")
    assert [(one.node, one.state) for one in (await harness.show_fleet()).nodes] == [
        ("node-1", "live")
    ]
    assert node.epochs == [1]


async def test_the_first_epoch_is_sealed_to_at_once_and_the_next_when_the_live_nodes_have_it(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica(SEALING_SECONDS="60")
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await wait_for_sealing(harness, 1)
    node = await harness.add_node("node-1")
    with FleetFile.edit(harness.cluster.keys.files.fleet_file) as fleet:
        fleet.mark_node("node-1", "enrolled")
        assert fleet.add_epoch() == 2
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await node.wait_for_checkpoint(epoch=2)
    stored = await harness.keyrings.last(s.keyring_epoch(2))
    assert stored is not None
    assert harness.trust.operator.open_bytes(Purpose.EPOCH, stored.body, EpochKey).epoch == 2
    keyring = await harness.keyrings.last(s.keyring_node("node-1"))
    assert keyring is not None
    body = harness.trust.operator.open_bytes(Purpose.ENROL, keyring.body, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1, 2]
    assert await read_sealing_epoch(harness) == 1
    node.epochs = [1, 2]
    await wait_for_sealing(harness, 2)


async def test_a_new_epoch_does_not_wait_for_ever_for_a_node(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    await harness.add_node("node-1", epochs=[])
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await wait_for_sealing(harness, 1)


async def test_an_unsigned_command_and_one_signed_by_somebody_else_are_refused(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    await harness.add_node("node-1")
    command = DrainNode(node="node-1", issued_at=datetime.now(UTC))
    impostor = Signer.generate("operator").sign(Purpose.DRAIN, command)
    for_another_purpose = harness.fleet.operator_signer().sign(Purpose.REMOVE, command)
    for body in (command, impostor, for_another_purpose):
        await harness.send_commands(
            commands.FleetCommand(catalogue.CMD_NODE_DRAIN, body, "node-1", f"test-{id(body)}")
        )

    async def has_three_letters() -> bool:
        return len(await harness.list_dead_letters()) >= 3

    await until(has_three_letters, "three dead letters")
    found = await harness.list_dead_letters()
    assert [reason.split(":")[0] for reason in found] == ["malformed", "unsigned", "unsigned"]
    assert (await harness.show_fleet()).nodes[0].state == "live"


async def test_a_replayed_command_changes_nothing(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    await harness.add_node("node-1")
    at = datetime.now(UTC)
    drain = commands.drain_node(harness.fleet, "node-1", at)
    await harness.send_commands(drain)
    await harness.wait_for_state("node-1", "drained")
    await harness.send_commands(
        commands.return_node(harness.fleet, "node-1", at + timedelta(seconds=1))
    )
    await harness.wait_for_event(catalogue.EVENT_NODE_RETURNED)
    await harness.send_commands(drain._replace(id="replayed"))
    await harness.send_commands(
        commands.label_node(harness.fleet, "node-1", {"city": "x"}, at + timedelta(seconds=2))
    )
    await harness.wait_for_event(catalogue.EVENT_NODE_LABELLED)
    (view,) = (await harness.show_fleet()).nodes
    assert (view.state, view.labels) == ("live", {"city": "x"})
    assert len(harness.find_events(catalogue.EVENT_NODE_DRAINED)) == 1


async def test_a_removed_node_loses_its_keyring_and_an_old_enrolment_does_not_bring_it_back(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    await harness.add_node("node-1")
    old = commands.enrol_node(harness.fleet, "node-1", datetime.now(UTC))
    await harness.send_commands(old)
    await harness.send_commands(commands.remove_node(harness.fleet, "node-1", datetime.now(UTC)))
    await harness.wait_for_event(catalogue.EVENT_NODE_REMOVED, node="node-1")
    await until(lambda: _is_erased(harness, s.keyring_node("node-1")), "the keyring is erased")
    await harness.send_commands(old._replace(id="replayed"))
    await harness.add_node("node-2")
    assert await harness.keyrings.last(s.keyring_node("node-1")) is None
    assert [(one.node, one.state) for one in (await harness.show_fleet()).nodes] == [
        ("node-1", "removed"),
        ("node-2", "live"),
    ]


async def test_only_a_higher_trust_document_replaces_the_one_in_the_bucket(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica()
    first = commands.publish_trust(harness.fleet)
    await harness.send_commands(first)
    stored = await until(
        lambda: harness.keyrings.last(s.KEYRING_TRUST), "the trust document is there"
    )
    assert isinstance(first.body, Signed)
    assert parse(Signed, stored.body) == first.body
    fleet = harness.fleet
    keys = [
        key.model_copy(update={"not_after": key.not_after + timedelta(days=1)})
        for key in fleet.trust_keys
    ]
    newer = commands.sign_trust(fleet, keys, datetime.now(UTC))
    await harness.send_commands(commands.publish_trust(fleet))
    await until(lambda: _holds_trust(harness, newer), "the newer one replaces it")
    await harness.send_commands(first._replace(id="replayed"))
    await harness.add_node("node-1")
    assert await _holds_trust(harness, newer)


async def _is_erased(harness: EdgeSyncHarness, key: str) -> bool:
    return await harness.keyrings.last(key) is None


async def _holds_trust(harness: EdgeSyncHarness, document: Signed) -> bool:
    stored = await harness.keyrings.last(s.KEYRING_TRUST)
    return stored is not None and parse(Signed, stored.body) == document


async def test_the_epoch_that_is_sealed_to_differs_from_the_newest_and_is_repeated(
    harness: EdgeSyncHarness,
) -> None:
    await harness.start_replica(SEALING_SECONDS="60")
    node = await harness.add_node("node-1")
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await wait_for_sealing(harness, 1)
    with FleetFile.edit(harness.cluster.keys.files.fleet_file) as fleet:
        assert fleet.add_epoch() == 2
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await node.wait_for_checkpoint(epoch=2)
    view = await harness.show_fleet()
    assert (view.epoch, view.sealing_epoch) == (2, 1)

    connection = PlatformConnection(harness.clients["operator"], "", "operator", 5)
    edge_sync = harness.trust.verifier("edge_sync")
    switch = asyncio.create_task(wait_until_sealing(connection, edge_sync, 2))
    first = await read_sealing(harness)
    assert first is not None

    async def is_repeated() -> bool:
        statement = await read_sealing(harness)
        assert statement is not None
        return statement.epoch == first.epoch and statement.at > first.at

    await until(is_repeated, "the statement is repeated")
    assert not switch.done(), "started is not sealed to"
    node.epochs = [1, 2]
    await asyncio.wait_for(switch, 10)
    view = await harness.show_fleet()
    assert (view.epoch, view.sealing_epoch, await read_sealing_epoch(harness)) == (2, 2, 2)
    with pytest.raises(Unsigned):
        await wait_until_sealing(connection, harness.trust.verifier("validator"), 2)


async def test_a_lower_epoch_never_replaces_a_higher_one(harness: EdgeSyncHarness) -> None:
    await harness.start_replica()
    await harness.send_commands(*commands.start_epoch(harness.fleet, datetime.now(UTC)))
    await wait_for_sealing(harness, 1)
    signer = harness.cluster.keys.edge_sync
    held = await harness.keyrings.last(s.KEYRING_SEALING)
    assert held is not None
    higher = signer.sign(Purpose.SEALING, SealingEpoch(epoch=7, at=datetime.now(UTC))).encode()
    await harness.keyrings.put(s.KEYRING_SEALING, higher, held.sequence)
    log = harness.replicas[0].log_file
    await until(lambda: "epoch.behind" in log.read_text(), "the lower epoch is held back")
    assert await read_sealing_epoch(harness) == 7
