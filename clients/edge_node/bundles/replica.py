"""The node's sealed copy of what it serves: one file a bundle, the bytes that edge_sync signed.

No key is in clear in these files.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from shared.private_files import private_folder, sync_folder, write_private

_SUFFIX = ".json"
_READABLE_CHARACTERS = 180
_CHECKPOINT_SAVE_SECONDS = 10.0


@dataclass(frozen=True)
class FeedPosition:
    """How far this node has applied the bucket's stream.

    ``incarnation``: when the stream was made, as the server writes it. ``checkpoint``: Unix time
    of the newest checkpoint that was believed. The field names are the keys of position.json."""

    incarnation: str = ""
    sequence: int = 0
    checkpoint: float = 0.0

    def is_worth_saving(self, saved: FeedPosition) -> bool:
        """Return whether this position is worth a write after ``saved``.

        A checkpoint comes each second and is believed for 60 s at most, so its time alone is
        saved every 10 s."""
        moved = (self.incarnation, self.sequence) != (saved.incarnation, saved.sequence)
        return moved or self.checkpoint >= saved.checkpoint + _CHECKPOINT_SAVE_SECONDS


@dataclass(frozen=True)
class Tombstone:
    """The order and hash of a removal, kept so that no older bundle of the domain is taken again.

    The field names are the keys of a row of tombstones.json."""

    revision: int
    epoch: int
    hash: str


def file_name(domain: str) -> str:
    """Return the replica's file name for ``domain``, whatever text that is.

    The name is readable, unique, at most 255 bytes long, and holds no path separator."""
    readable = ""
    for character in domain[:_READABLE_CHARACTERS]:
        plain = character.isascii() and (character.isalnum() or character in "-_.")
        readable += character if plain else "_"
    return f"{readable.lstrip('.')}-{sha256(domain.encode()).hexdigest()[:32]}{_SUFFIX}"


def describe_disk_error(error: OSError) -> str:
    """Return one sentence on a failed write, without a path."""
    return f"the replica cannot be written: {os.strerror(error.errno or 0)}"


class Replica:
    """The files of one node. Every call blocks: call it in a thread.

    When a call returns, everything is on the disk except what the returned faults name: the
    reason by domain."""

    def __init__(self, node_folder: Path) -> None:
        private_folder(node_folder)
        self._folder = private_folder(node_folder / "replica")
        self._position_file = node_folder / "position.json"
        self._tombstones_file = node_folder / "tombstones.json"
        self._tombstones = self._load_tombstones()
        # Several batches are stored at once, each from a thread of its own.
        self._tombstones_lock = threading.Lock()
        for torn in self._folder.glob(".*"):
            torn.unlink()

    def stored_bundles(self) -> Iterator[tuple[str, bytes]]:
        """Yield the file name and the content of each bundle."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            yield path.name, path.read_bytes()

    def read_bundle(self, domain: str) -> bytes | None:
        """Return the stored bundle of ``domain``, None without one."""
        try:
            return (self._folder / file_name(domain)).read_bytes()
        except FileNotFoundError:
            return None

    def write_bundles(self, bundles: Mapping[str, bytes]) -> dict[str, str]:
        """Replace the file of each domain, whole or not at all. Return the faults by domain.

        Where the new bundle could not be written, the old one is gone as well: a restart must not
        bring back what was replaced."""
        faults = {}
        for domain, body in bundles.items():
            try:
                self._write_or_make_room(domain, body)
            except OSError as error:
                faults[domain] = describe_disk_error(error)
        if bundles:
            sync_folder(self._folder)
        # After the rename: a crash in between leaves both, and the higher order wins.
        return faults | self.remove_tombstones(bundles.keys() - faults.keys())

    def unlink_bundles(self, domains: Collection[str]) -> dict[str, str]:
        """Take the bundles of ``domains`` off the disk. Return the faults by domain."""
        faults = {}
        for domain in domains:
            try:
                self.unlink_file(file_name(domain))
            except OSError as error:
                faults[domain] = describe_disk_error(error)
        if domains:
            sync_folder(self._folder)
        return faults

    def add_tombstones(self, tombstones: Mapping[str, Tombstone]) -> dict[str, str]:
        """Unlink the bundles of removed domains and keep their tombstones. Return the faults."""
        faults = self.unlink_bundles(tombstones)
        with self._tombstones_lock:
            self._tombstones.update(tombstones)
            return self._save_tombstones(tombstones) | faults

    def remove_tombstones(self, domains: Collection[str]) -> dict[str, str]:
        """Remove the tombstones that ``domains`` have. Return the faults by domain."""
        with self._tombstones_lock:
            removed = [domain for domain in domains if self._tombstones.pop(domain, None)]
            return self._save_tombstones(removed) if removed else {}

    def remove_domains(self, domains: Collection[str]) -> dict[str, str]:
        """Unlink the bundles of ``domains`` and remove their tombstones. Return the faults."""
        faults = self.unlink_bundles(domains)
        return self.remove_tombstones(domains) | faults

    def unlink_file(self, name: str) -> None:
        """Unlink one bundle by its file name. Does nothing when it is not there."""
        with suppress(FileNotFoundError):
            (self._folder / name).unlink()

    def tombstones(self) -> dict[str, Tombstone]:
        """Return the tombstones by domain."""
        return dict(self._tombstones)

    def load_position(self) -> FeedPosition:
        """Return the saved position, or the start of the stream when the file is unreadable."""
        try:
            return FeedPosition(**json.loads(self._position_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return FeedPosition()

    def save_position(self, position: FeedPosition) -> None:
        """Write the position to disk. Raises OSError."""
        write_private(self._position_file, json.dumps(asdict(position)) + "\n")

    def _write_or_make_room(self, domain: str, body: bytes) -> None:
        final = self._folder / file_name(domain)
        try:
            self._write_file(final, domain, body)
        except OSError:
            # On a full disk the new bundle takes the space of the old one, which must not come
            # back in any case.
            final.unlink(missing_ok=True)
            self._write_file(final, domain, body)

    def _write_file(self, final: Path, domain: str, body: bytes) -> None:
        fresh = self._folder / f".{sha256(domain.encode()).hexdigest()}"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fdatasync(file.fileno())
            fresh.replace(final)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise

    def _load_tombstones(self) -> dict[str, Tombstone]:
        try:
            rows = json.loads(self._tombstones_file.read_text())
            return {str(domain): Tombstone(**row) for domain, row in rows.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _save_tombstones(self, domains: Collection[str]) -> dict[str, str]:
        """Write all tombstones; when that fails, return the reason for each of ``domains``."""
        rows = {domain: asdict(tombstone) for domain, tombstone in self._tombstones.items()}
        try:
            write_private(self._tombstones_file, json.dumps(rows) + "\n")
        except OSError as error:
            return dict.fromkeys(domains, describe_disk_error(error))
        return {}
