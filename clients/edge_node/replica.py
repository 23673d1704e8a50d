"""The node's sealed copy of what it serves: one file a bundle, the bytes that edge_sync signed. No key is in clear."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from clients.fleet.files import private_folder, write_private

_SUFFIX = ".json"
_READABLE = 180


@dataclass(frozen=True)
class Position:
    """How far the bucket's stream is applied. ``checkpoint``: Unix time of the newest checkpoint believed."""

    incarnation: str = ""
    sequence: int = 0
    checkpoint: float = 0.0


@dataclass(frozen=True)
class Tombstone:
    """What stays of a removed domain, so that an old bundle of it is never taken again."""

    revision: int
    epoch: int
    hash: str


def file_name(domain: str) -> str:
    """Readable, unique, and safe whatever the domain is: a name of at most 255 bytes without a separator."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in domain)[:_READABLE]
    return f"{readable.lstrip('.')}-{sha256(domain.encode()).hexdigest()[:32]}{_SUFFIX}"


class Replica:
    """Blocking: call it in a thread. Everything is on the disk when a call returns."""

    def __init__(self, node_folder: Path) -> None:
        private_folder(node_folder)
        self._folder = private_folder(node_folder / "replica")
        self._position = node_folder / "position.json"
        self._tombstones = node_folder / "tombstones.json"
        self._buried = self._read_tombstones()
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

    def write(self, bundles: Iterable[tuple[str, bytes]]) -> None:
        """Puts each domain's file in the place of the one before, whole or not at all."""
        written = []
        for domain, body in bundles:
            final = self._folder / file_name(domain)
            fresh = self._folder / f".{sha256(domain.encode()).hexdigest()}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(body)
                file.flush()
                os.fdatasync(file.fileno())
            written.append((fresh, final))
            self._buried.pop(domain, None)
        for fresh, final in written:
            fresh.replace(final)
        if written:
            self._sync()

    def bury(self, tombstones: Mapping[str, Tombstone]) -> None:
        """Unlinks the bundles of removed domains; their tombstones stay."""
        self._unlink(tombstones)
        self._buried.update(tombstones)
        self._save_tombstones()

    def drop(self, domains: Collection[str]) -> None:
        """Unlinks bundles and tombstones."""
        self._unlink(domains)
        for domain in domains:
            self._buried.pop(domain, None)
        self._save_tombstones()

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

    def _read_tombstones(self) -> dict[str, Tombstone]:
        try:
            rows = json.loads(self._tombstones.read_text())
            return {str(domain): Tombstone(**row) for domain, row in rows.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _save_tombstones(self) -> None:
        rows = {domain: asdict(tombstone) for domain, tombstone in self._buried.items()}
        write_private(self._tombstones, json.dumps(rows) + "\n")

    def _unlink(self, domains: Iterable[str]) -> None:
        for domain in domains:
            self.forget(file_name(domain))
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
