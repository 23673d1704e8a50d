"""The fleet file: JSON of mode 0600, the operator's secret.

Back it up offline: without it the fleet is lost.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from shared.contracts.base import NodeId, Signed
from shared.contracts.commands import TrustedKey
from shared.crypto.sealing import PrivateKey
from shared.crypto.signing import OPERATOR_KEY_ID, Signer
from shared.errors import SettingsError
from shared.nats_config import render_edge_users
from shared.private_files import private_folder, write_private

NodeState = Literal["made", "enrolled", "drained", "removed"]


class FleetNode(BaseModel):
    """A node as the operator knows it.

    ``made``: it has credentials, but the broker has not stored its enrolment yet. A removed node
    may no longer log in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: NodeId
    public_key: str
    nkey: str
    labels: dict[str, str] = {}
    state: NodeState = "made"


class FleetFile(BaseModel):
    """The operator's keys, the private keys of the epochs, the nodes, and the trust document.

    ``epochs``: private keys by number. ``started``: the newest epoch that the broker has stored.
    ``users_file``: the NATS configuration's include with the users of nodes, relative to the folder
    of the fleet file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, validate_assignment=True)

    version: Literal[1] = 1
    operator_key: str = Field(repr=False)
    users_file: Path
    epochs: dict[Annotated[int, Field(ge=1)], str] = Field(repr=False)
    started: int = 0
    nodes: dict[NodeId, FleetNode] = {}
    trust_serial: int = 0
    trust_keys: list[TrustedKey] = []
    trust: Signed | None = None
    _path: Path = PrivateAttr()

    @classmethod
    def create(cls, path: Path, users_file: Path) -> FleetFile:
        """Make a fleet file with a new operator key and epoch 1. SettingsError when ``path``
        exists."""
        if path.exists():
            raise SettingsError(f"{path} is there already: a fleet file is never overwritten")
        operator = Signer.generate(OPERATOR_KEY_ID)
        # Relative, so that the data folder may be moved as a whole.
        users = Path(os.path.relpath(users_file, path.parent))
        fleet = cls(
            operator_key=operator.text(), users_file=users, epochs={1: PrivateKey.generate().text()}
        )
        fleet._path = path
        private_folder(path.parent)
        fleet.save()
        return fleet

    @classmethod
    def read(cls, path: Path) -> FleetFile:
        """Read a fleet file. SettingsError when that fails; its content is never in the message."""
        try:
            fleet = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise SettingsError(f"there is no fleet file at {path}") from None
        except OSError as error:
            raise SettingsError(
                f"cannot read the fleet file {path}: {os.strerror(error.errno or 0)}"
            ) from None
        except ValidationError as error:
            # Name the fields only: their values are private keys.
            fields = []
            for fault in error.errors(include_input=False)[:3]:
                fields.append(".".join(map(str, fault["loc"])))
            places = ", ".join(fields) or "not JSON"
            raise SettingsError(f"{path} is not a fleet file of version 1 ({places})") from None
        fleet._path = path
        return fleet

    @classmethod
    @contextmanager
    def edit(cls, path: Path) -> Iterator[FleetFile]:
        """Read the file, and save it at the end of the block unless that raised. A lock admits one
        editor at a time on this machine."""
        # The lock is a file of its own: the fleet file is replaced when it is saved, and a lock on
        # the old one would not keep others out. It is read under the lock, so that no edit is lost.
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fleet = cls.read(path)
            yield fleet
            fleet.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        write_private(self._path, self.model_dump_json(indent=1) + "\n")

    def operator_signer(self) -> Signer:
        """Return the operator's signing key."""
        return Signer(OPERATOR_KEY_ID, self.operator_key)

    @property
    def newest_epoch(self) -> int:
        """Return the number of the newest epoch."""
        return max(self.epochs)

    def epoch_key(self, epoch: int) -> PrivateKey:
        """Return an epoch's private key. SettingsError when it is not in the file."""
        if epoch not in self.epochs:
            raise SettingsError(
                f"the fleet file holds no key of epoch {epoch}: it has {sorted(self.epochs)}"
            )
        return PrivateKey(self.epochs[epoch])

    def add_epoch(self) -> int:
        """Make the key of a new epoch and return its number. ``commands.start_epoch`` gives it to
        the nodes."""
        number = self.newest_epoch + 1
        # A new dictionary: pydantic validates assignments, not changes of a dictionary.
        self.epochs = {**self.epochs, number: PrivateKey.generate().text()}
        return number

    def destroy_epochs(self, below: int) -> list[int]:
        """Destroy the private keys of epochs below ``below``, never the newest, and return their
        numbers. No pair may be sealed to them any more."""
        destroyed = []
        kept = {}
        for epoch, key in self.epochs.items():
            if epoch < min(below, self.newest_epoch):
                destroyed.append(epoch)
            else:
                kept[epoch] = key
        self.epochs = kept
        return sorted(destroyed)

    def find_node(self, node: str) -> FleetNode:
        """Return a node. SettingsError when it is not in the file."""
        try:
            return self.nodes[node]
        except KeyError:
            known = ", ".join(self.nodes) or "no nodes"
            raise SettingsError(f"{node} is not in the fleet file: it has {known}") from None

    def put_node(self, node: FleetNode) -> None:
        """Add or replace a node."""
        self.nodes = {**self.nodes, node.node: node}

    def mark_node(self, node: str, state: NodeState) -> None:
        """Set a node's state."""
        self.put_node(self.find_node(node).model_copy(update={"state": state}))

    def remaining_nodes(self) -> list[FleetNode]:
        """Return every node that is not removed, in order of its id."""
        remaining = []
        for name in sorted(self.nodes):
            if self.nodes[name].state != "removed":
                remaining.append(self.nodes[name])
        return remaining

    def write_users(self) -> bool:
        """Write the NATS include with the users of nodes. Return False when it was equal.

        After a change nats-server needs a SIGHUP."""
        file = self._path.parent / self.users_file
        text = render_edge_users({node.node: node.nkey for node in self.remaining_nodes()})
        if file.exists() and file.read_text() == text:
            return False
        private_folder(file.parent)
        write_private(file, text)
        return True
