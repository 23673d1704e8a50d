"""The replica's files: safe names, complete contents, no trace of what was replaced."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.edge_node.bundles.replica import FeedPosition, Replica, Tombstone, file_name


@given(st.text(max_size=300))
def test_whatever_the_domain_its_file_stays_in_the_folder(domain: str) -> None:
    name = file_name(domain)
    assert Path(name).name == name
    assert len(name.encode()) <= 255
    assert not name.startswith(".")
    assert "\0" not in name


@given(st.text(max_size=60), st.text(max_size=60))
def test_two_domains_have_two_files(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


def test_a_wildcard_and_its_look_alike_have_two_files() -> None:
    assert file_name("*.a.test") != file_name("_.a.test")


def test_a_bundle_replaces_the_one_before_and_a_tombstone_unlinks_it(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "node")
    assert replica.write_bundles({"a.test": b"first", "b.test": b"b"}) == {}
    replica.write_bundles({"a.test": b"second"})
    assert sorted(body for _, body in replica.stored_bundles()) == [b"b", b"second"]
    replica.add_tombstones({"a.test": Tombstone(3, 1, "h")})
    assert replica.read_bundle("a.test") is None
    assert [body for _, body in replica.stored_bundles()] == [b"b"]
    again = Replica(tmp_path / "node")
    assert again.tombstones() == {"a.test": Tombstone(3, 1, "h")}
    again.write_bundles({"a.test": b"back"})
    assert again.tombstones() == {}
    again.remove_domains(["a.test", "b.test"])
    assert list(again.stored_bundles()) == []


def test_files_are_for_the_node_alone_and_torn_ones_are_swept(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "node")
    replica.write_bundles({"a.test": b"x"})
    replica.save_position(FeedPosition("then", 7, 1.5))
    (tmp_path / "node" / "replica" / ".torn").write_bytes(b"half")
    modes = {
        path.stat().st_mode & 0o777 for path in (tmp_path / "node").rglob("*") if path.is_file()
    }
    assert modes <= {0o600, 0o644}
    assert (tmp_path / "node" / "replica").stat().st_mode & 0o777 == 0o700
    again = Replica(tmp_path / "node")
    assert again.load_position() == FeedPosition("then", 7, 1.5)
    assert [name for name, _ in again.stored_bundles()] == [file_name("a.test")]
    assert not (tmp_path / "node" / "replica" / ".torn").exists()


def test_unreadable_position_and_tombstones_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    Replica(folder)
    (folder / "position.json").write_text('{"incarnation": 1, "x"')
    (folder / "tombstones.json").write_text("[]")
    assert Replica(folder).load_position() == FeedPosition()
    assert Replica(folder).tombstones() == {}


def test_a_domain_that_came_back_has_no_tombstone_after_a_restart(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "node")
    replica.add_tombstones({"a.test": Tombstone(3, 1, "h"), "b.test": Tombstone(4, 1, "h")})
    replica.write_bundles({"a.test": b"back"})
    again = Replica(tmp_path / "node")
    assert again.tombstones() == {"b.test": Tombstone(4, 1, "h")}
    assert again.read_bundle("a.test") == b"back"


def test_a_bundle_that_the_disk_does_not_take_leaves_none_and_the_others_are_written(
    tmp_path: Path,
) -> None:
    replica = Replica(tmp_path / "node")
    replica.write_bundles({"a.test": b"old", "b.test": b"old", "c.test": b"old"})
    blocked = tmp_path / "node" / "replica" / f".{sha256(b'b.test').hexdigest()}"
    blocked.mkdir()  # in the way of the new file
    faults = replica.write_bundles({"a.test": b"new", "b.test": b"new", "c.test": b"new"})
    assert faults == {"b.test": "the replica cannot be written: Is a directory"}
    blocked.rmdir()
    again = Replica(tmp_path / "node")
    assert [again.read_bundle(f"{name}.test") for name in "abc"] == [b"new", None, b"new"]


def test_on_a_full_disk_the_new_bundle_takes_the_space_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(tmp_path / "node")
    replica.write_bundles({"a.test": b"old"})
    old = tmp_path / "node" / "replica" / file_name("a.test")
    true_sync = os.fdatasync

    def full(descriptor: int) -> None:
        if old.exists():
            raise OSError(errno.ENOSPC, "full")
        true_sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", full)
    assert replica.write_bundles({"a.test": b"new"}) == {}
    assert replica.read_bundle("a.test") == b"new"


def test_a_tombstone_that_cannot_be_saved_is_a_fault_and_its_bundle_is_gone(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "node")
    replica.write_bundles({"a.test": b"old"})
    (tmp_path / "node" / "tombstones.json").mkdir()
    assert replica.add_tombstones({"a.test": Tombstone(3, 1, "h")}).keys() == {"a.test"}
    assert list(replica.stored_bundles()) == []
    (tmp_path / "node" / "tombstones.json").rmdir()
    assert replica.add_tombstones({"a.test": Tombstone(3, 1, "h")}) == {}
    assert Replica(tmp_path / "node").tombstones() == {"a.test": Tombstone(3, 1, "h")}
