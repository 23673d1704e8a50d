"""The node's sealed copy of what it serves: one file a bundle, the bytes that edge_sync signed. No
key is in clear."""

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
_READABLE = 180
_NOTED_SECONDS = 10.0


@dataclass(frozen=True)
class Position:
    """How far the bucket's stream is applied. ``checkpoint``: Unix time of the newest checkpoint
    believed."""

    incarnation: str = ""
    sequence: int = 0
    checkpoint: float = 0.0

    def is_past(self, saved: Position) -> bool:
        """Whether it is worth a write: a checkpoint comes each second, and none is believed for
        longer than 60."""
        elsewhere = (self.incarnation, self.sequence) != (saved.incarnation, saved.sequence)
        return elsewhere or self.checkpoint >= saved.checkpoint + _NOTED_SECONDS


@dataclass(frozen=True)
class Tombstone:
    """What stays of a removed domain, so that an old bundle of it is never taken again."""

    revision: int
    epoch: int
    hash: str


def file_name(domain: str) -> str:
    """Readable, unique, and safe whatever the domain is: a name of at most 255 bytes without a
    separator."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in domain)[
        :_READABLE
    ]
    return f"{readable.lstrip('.')}-{sha256(domain.encode()).hexdigest()[:32]}{_SUFFIX}"


def why(error: OSError) -> str:
    return f"the replica cannot be written: {os.strerror(error.errno or 0)}"


class Replica:
    """Blocking: call it in a thread. Everything is on the disk when a call returns, but what it
    names as a fault."""

    def __init__(self, node_folder: Path) -> None:
        private_folder(node_folder)
        self._folder = private_folder(node_folder / "replica")
        self._position = node_folder / "position.json"
        self._tombstones = node_folder / "tombstones.json"
        self._buried = self._read_tombstones()
        self._noting = threading.Lock()  # several batches are stored at once, each from a thread
        for torn in self._folder.glob(".*"):
            torn.unlink()

    def bodies(self) -> Iterator[tuple[str, bytes]]:
        """File name and content of each bundle."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            yield path.name, path.read_bytes()

    def read(self, domain: str) -> bytes | None:
        try:
            return (self._folder / file_name(domain)).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, bundles: Mapping[str, bytes]) -> dict[str, str]:
        """Puts each domain's file in the place of the one before, whole or not at all. Why one is
        not on the disk, by domain: then the one before is not there either, since a restart must
        not bring back what was replaced."""
        faults = {}
        for domain, body in bundles.items():
            try:
                self._write_or_make_room(domain, body)
            except OSError as error:
                faults[domain] = why(error)
        if bundles:
            sync_folder(self._folder)
        # After the rename: a crash in between leaves both, and the higher order wins.
        return faults | self.dig_up(bundles.keys() - faults.keys())

    def unlink(self, domains: Collection[str]) -> dict[str, str]:
        """Takes the bundles off the disk, each alone; why one is still there, by domain."""
        faults = {}
        for domain in domains:
            try:
                self.forget(file_name(domain))
            except OSError as error:
                faults[domain] = why(error)
        if domains:
            sync_folder(self._folder)
        return faults

    def bury(self, tombstones: Mapping[str, Tombstone]) -> dict[str, str]:
        """Unlinks the bundles of removed domains; their tombstones stay. Faults by domain."""
        faults = self.unlink(tombstones)
        with self._noting:
            self._buried.update(tombstones)
            return self._note_tombstones(tombstones) | faults

    def drop(self, domains: Collection[str]) -> dict[str, str]:
        """Unlinks bundles and tombstones. Faults by domain."""
        faults = self.unlink(domains)
        return self.dig_up(domains) | faults

    def dig_up(self, domains: Collection[str]) -> dict[str, str]:
        """Ends the tombstones that there are of ``domains``. Faults by domain."""
        with self._noting:
            gone = [domain for domain in domains if self._buried.pop(domain, None)]
            return self._note_tombstones(gone) if gone else {}

    def forget(self, name: str) -> None:
        """Unlinks one file by its name."""
        with suppress(FileNotFoundError):
            (self._folder / name).unlink()

    def tombstones(self) -> dict[str, Tombstone]:
        return dict(self._buried)

    def position(self) -> Position:
        try:
            return Position(**json.loads(self._position.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return Position()

    def save_position(self, position: Position) -> None:
        write_private(self._position, json.dumps(asdict(position)) + "\n")

    def _write_or_make_room(self, domain: str, body: bytes) -> None:
        final = self._folder / file_name(domain)
        try:
            self._write(final, domain, body)
        except OSError:
            final.unlink(missing_ok=True)
            self._write(final, domain, body)

    def _write(self, final: Path, domain: str, body: bytes) -> None:
        fresh = self._folder / f".{sha256(domain.encode()).hexdigest()}"
        try:
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as file:
                file.write(body)
                file.flush()
                os.fdatasync(file.fileno())
            fresh.replace(final)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise

    def _read_tombstones(self) -> dict[str, Tombstone]:
        try:
            rows = json.loads(self._tombstones.read_text())
            return {str(domain): Tombstone(**row) for domain, row in rows.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _note_tombstones(self, domains: Collection[str]) -> dict[str, str]:
        """All there are. Why it failed, for each of ``domains``: those on whose behalf it was
        tried."""
        rows = {domain: asdict(tombstone) for domain, tombstone in self._buried.items()}
        try:
            write_private(self._tombstones, json.dumps(rows) + "\n")
        except OSError as error:
            return dict.fromkeys(domains, why(error))
        return {}
