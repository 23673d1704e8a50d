"""The operator's commands are signed for their purpose, and keyrings sealed to their node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import NODE_KEY, ensure_node
from shared import catalogue
from shared.contracts.base import SealedKey, Signed
from shared.contracts.commands import (
    DrainNode,
    EnrolNode,
    EpochKey,
    LabelNode,
    RemoveNode,
    ResealPair,
    StartEpoch,
    TrustedKey,
)
from shared.contracts.queries import SealedPair
from shared.crypto.sealing import PrivateKey, epoch_info, pair_info
from shared.crypto.signing import ContractT, Purpose, Trust, operator_verifier
from shared.errors import CannotOpen, SettingsError, Unsigned

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFile:
    path = tmp_path / "fleet" / "fleet.json"
    fleet = FleetFile.create(path, tmp_path / "edge_users.conf")
    for node in ("node-1", "node-2"):
        credentials = ensure_node(tmp_path / node)
        fleet.put_node(
            FleetNode(
                node=node,
                public_key=credentials.public_key,
                nkey=credentials.nkey,
                labels={"city": "x"},
                state="enrolled",
            )
        )
    return fleet


def read_node_key(folder: Path, node: str) -> PrivateKey:
    return PrivateKey((folder / node / NODE_KEY).read_text().strip())


def open_body(
    fleet: FleetFile, command: commands.FleetCommand, purpose: Purpose, model: type[ContractT]
) -> ContractT:
    assert isinstance(command.body, Signed)
    return operator_verifier(fleet.operator_signer().public_text()).open(
        purpose, command.body, model
    )


def open_keyrings(fleet: FleetFile, start: StartEpoch) -> list[EnrolNode]:
    operator = operator_verifier(fleet.operator_signer().public_text())
    return [operator.open(Purpose.ENROL, one, EnrolNode) for one in start.keyrings]


def test_an_enrolled_node_opens_every_kept_epoch_key_and_nobody_else_does(
    fleet: FleetFile, tmp_path: Path
) -> None:
    fleet.add_epoch()
    command = commands.enrol_node(fleet, "node-1", AT)
    assert (command.subject, command.about) == (catalogue.CMD_NODE_ENROL, "node-1")
    body = open_body(fleet, command, Purpose.ENROL, EnrolNode)
    assert [one.epoch for one in body.keyring] == [1, 2]
    for one in body.keyring:
        plain = read_node_key(tmp_path, "node-1").open(one.box, epoch_info("node-1", one.epoch))
        assert plain.decode() == fleet.epochs[one.epoch]
        with pytest.raises(CannotOpen):
            read_node_key(tmp_path, "node-2").open(one.box, epoch_info("node-1", one.epoch))
        with pytest.raises(CannotOpen):
            read_node_key(tmp_path, "node-1").open(one.box, epoch_info("node-2", one.epoch))


def test_a_command_is_worth_nothing_for_another_purpose(fleet: FleetFile) -> None:
    with pytest.raises(Unsigned):
        open_body(fleet, commands.drain_node(fleet, "node-1", AT), Purpose.REMOVE, RemoveNode)


def test_starting_an_epoch_carries_its_signed_key_and_the_keyrings_of_the_remaining(
    fleet: FleetFile,
) -> None:
    fleet.mark_node("node-2", "removed")
    fleet.add_epoch()
    (command,) = commands.start_epoch(fleet, AT)
    assert command.subject == catalogue.CMD_EPOCH_START
    body = open_body(fleet, command, Purpose.EPOCH_START, StartEpoch)
    (keyring,) = open_keyrings(fleet, body)
    assert keyring.node == "node-1"
    assert [one.epoch for one in keyring.keyring] == [1, 2]
    signed = Signed(
        key_id="operator", payload=body.key.encode().decode(), signature=body.key_signature
    )
    key = operator_verifier(fleet.operator_signer().public_text()).open(
        Purpose.EPOCH, signed, EpochKey
    )
    assert (key.epoch, key.public_key) == (2, fleet.epoch_key(2).public().text)


def test_a_rotation_of_a_large_fleet_stays_under_the_size_of_a_message(
    fleet: FleetFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_KEYRINGS_BYTES", 4_000)
    first, start = commands.start_epoch(fleet, AT)
    assert open_body(fleet, first, Purpose.ENROL, EnrolNode).node == "node-2"
    body = open_body(fleet, start, Purpose.EPOCH_START, StartEpoch)
    assert [one.node for one in open_keyrings(fleet, body)] == ["node-1"]


def test_a_hundred_nodes_fit_the_broker(fleet: FleetFile) -> None:
    pattern = fleet.find_node("node-1")
    for number in range(3, 101):
        fleet.put_node(pattern.model_copy(update={"node": f"node-{number}"}))
    assert (
        max(len(command.body.encode()) for command in commands.start_epoch(fleet, AT)) < 1_000_000
    )


def test_draining_returning_labelling_and_removing_say_so(fleet: FleetFile) -> None:
    drain, back = (
        commands.drain_node(fleet, "node-1", AT),
        commands.return_node(fleet, "node-1", AT),
    )
    assert open_body(fleet, drain, Purpose.DRAIN, DrainNode).drained
    assert not open_body(fleet, back, Purpose.DRAIN, DrainNode).drained
    label = commands.label_node(fleet, "node-1", {"city": "y"}, AT)
    assert open_body(fleet, label, Purpose.LABEL, LabelNode).labels == {"city": "y"}
    assert (
        open_body(fleet, commands.remove_node(fleet, "node-1", AT), Purpose.REMOVE, RemoveNode).node
        == "node-1"
    )
    with pytest.raises(SettingsError, match="node-9 is not in the fleet file"):
        commands.drain_node(fleet, "node-9", AT)


def test_the_trust_document_is_signed_and_keeps_its_serial_while_its_keys_stay(
    fleet: FleetFile,
) -> None:
    until = AT + timedelta(days=1)
    key = TrustedKey(
        purpose="billing", key_id="billing-1", public_key="eA==", not_before=AT, not_after=until
    )
    first = commands.sign_trust(fleet, [key], AT)
    assert commands.sign_trust(fleet, [key], until) == first
    assert commands.publish_trust(fleet).body == first
    second = commands.sign_trust(fleet, [key.model_copy(update={"key_id": "billing-2"})], AT)
    assert Trust.read(fleet.operator_signer().public_text(), first, AT).document.serial == 1
    assert Trust.read(fleet.operator_signer().public_text(), second, AT).document.serial == 2


def test_a_resealed_pair_opens_with_the_newest_epoch_only(fleet: FleetFile) -> None:
    info = pair_info("acme", "p1", "ab" * 32)
    old = SealedKey(epoch=1, box=fleet.epoch_key(1).public().seal(b"key", info))
    pair = SealedPair(
        domain="a.test", account="acme", pair_id="p1", leaf_fingerprint="ab" * 32, sealed_key=old
    )
    fleet.add_epoch()
    command = commands.reseal_pair(fleet, pair)
    assert command.subject == catalogue.CMD_PAIR_RESEAL and isinstance(command.body, ResealPair)
    assert (command.body.old_epoch, command.body.sealed_key.epoch) == (1, 2)
    assert fleet.epoch_key(2).open(command.body.sealed_key.box, info) == b"key"
    with pytest.raises(CannotOpen):
        fleet.epoch_key(1).open(command.body.sealed_key.box, info)
