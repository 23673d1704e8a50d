"""The fleet file is private, and written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import ensure_hpke, ensure_nkey, ensure_node, ensure_signer
from shared.errors import SettingsError


def make_fleet(folder: Path) -> Path:
    path = folder / "fleet" / "fleet.json"
    FleetFile.create(path, folder / "nats" / "edge_users.conf")
    return path


def add_node(path: Path, folder: Path, node: str = "node-1") -> FleetNode:
    credentials = ensure_node(folder / node)
    with FleetFile.edit(path) as fleet:
        fleet.put_node(
            FleetNode(node=node, public_key=credentials.public_key, nkey=credentials.nkey)
        )
        return fleet.find_node(node)


def test_a_fleet_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_fleet_file_is_never_overwritten_by_a_new_one(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="never overwritten"):
        FleetFile.create(path, tmp_path / "edge_users.conf")
    assert path.read_bytes() == before


def test_what_was_changed_is_there_at_the_next_read(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    node = add_node(path, tmp_path)
    with FleetFile.edit(path) as fleet:
        fleet.mark_node("node-1", "enrolled")
        assert fleet.add_epoch() == 2
    again = FleetFile.read(path)
    assert again.find_node("node-1") == node.model_copy(update={"state": "enrolled"})
    assert sorted(again.epochs) == [1, 2]
    assert (
        again.operator_signer().public_text()
        == FleetFile.read(path).operator_signer().public_text()
    )


def test_a_failed_change_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    before = path.read_bytes()
    with pytest.raises(KeyError), FleetFile.edit(path) as fleet:
        fleet.add_epoch()
        raise KeyError
    assert path.read_bytes() == before


def test_a_broken_file_is_one_line_without_its_content(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    path.write_text('{"version": 1, "operator_key": ["canary"]}')
    with pytest.raises(SettingsError, match="is not a fleet file") as caught:
        FleetFile.read(path)
    assert "canary" not in str(caught.value)
    with pytest.raises(SettingsError, match="there is no fleet file"):
        FleetFile.read(tmp_path / "none.json")


def test_old_epoch_keys_are_destroyed_but_never_the_newest(tmp_path: Path) -> None:
    path = make_fleet(tmp_path)
    with FleetFile.edit(path) as fleet:
        first = fleet.epochs[1]
        fleet.add_epoch()
        assert fleet.destroy_epochs(below=9) == [1]
        assert list(fleet.epochs) == [2]
    assert first not in path.read_text()


def test_node_users_are_rendered_without_the_removed_and_only_when_they_differ(
    tmp_path: Path,
) -> None:
    path = make_fleet(tmp_path)
    kept = add_node(path, tmp_path, "node-1")
    gone = add_node(path, tmp_path, "node-2")
    users = tmp_path / "nats" / "edge_users.conf"
    with FleetFile.edit(path) as fleet:
        assert fleet.write_users()
        assert not fleet.write_users()
        assert kept.nkey in users.read_text() and gone.nkey in users.read_text()
        fleet.mark_node("node-2", "removed")
        assert fleet.write_users()
    assert kept.nkey in users.read_text() and gone.nkey not in users.read_text()
    assert stat.S_IMODE(users.stat().st_mode) == 0o600


def test_the_data_folder_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    before = tmp_path / "before"
    after = tmp_path / "after"
    add_node(make_fleet(before), before)
    before.rename(after)
    with FleetFile.edit(after / "fleet" / "fleet.json") as fleet:
        assert fleet.write_users()
    assert (after / "nats" / "edge_users.conf").exists()


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    node = ensure_node(tmp_path / "node")
    assert ensure_node(tmp_path / "node") == node
    assert node.nkey.startswith("U") and len(node.nkey) == 56
    signer = ensure_signer(tmp_path / "validator.ed25519", "validator-1")
    assert (
        ensure_signer(tmp_path / "validator.ed25519", "other").public_text() == signer.public_text()
    )
    assert (tmp_path / "validator.ed25519").read_text().split() == ["validator-1", signer.text()]
    assert ensure_hpke(tmp_path / "one.hpke").text() == ensure_hpke(tmp_path / "one.hpke").text()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_that_holds_no_key_is_one_line_without_its_content(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("canary")
    with pytest.raises(SettingsError, match="not an nkey user seed") as seed:
        ensure_nkey(bad)
    with pytest.raises(SettingsError, match="not a signing key") as signer:
        ensure_signer(bad, "x")
    assert "canary" not in str(seed.value) + str(signer.value)
