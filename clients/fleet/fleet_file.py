"""The fleet file: JSON, mode 0600, the operator's secret. Losing it loses the fleet: back it up
offline."""

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
    """``made``: has credentials, its enrolment is not stored by the broker yet. A removed one may
    no longer log in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: NodeId
    public_key: str
    nkey: str
    labels: dict[str, str] = {}
    state: NodeState = "made"


class FleetFile(BaseModel):
    """``epochs``: private keys by number; ``started``: the newest epoch that the broker has stored.

    ``users_file``: the include of the NATS configuration with the node users, relative to the fleet
    file's folder.
    """

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
        """A new operator key and epoch 1. SettingsError when ``path`` is there already."""
        if path.exists():
            raise SettingsError(f"{path} is there already: a fleet file is never overwritten")
        operator = Signer.generate(OPERATOR_KEY_ID)
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
        """SettingsError when it cannot be read or is none; the content is never in the message."""
        try:
            fleet = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise SettingsError(f"there is no fleet file at {path}") from None
        except OSError as error:
            raise SettingsError(
                f"cannot read the fleet file {path}: {os.strerror(error.errno or 0)}"
            ) from None
        except ValidationError as error:
            places = ", ".join(
                ".".join(map(str, e["loc"])) for e in error.errors(include_input=False)[:3]
            )
            raise SettingsError(
                f"{path} is not a fleet file of version 1 ({places or 'not JSON'})"
            ) from None
        fleet._path = path
        return fleet

    @classmethod
    @contextmanager
    def edit(cls, path: Path) -> Iterator[FleetFile]:
        """Read, change, saved at the end unless the block raised; one editor at a time on this
        machine."""
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fleet = cls.read(path)
            yield fleet
            fleet.save()

    def save(self) -> None:
        write_private(self._path, self.model_dump_json(indent=1) + "\n")

    def operator(self) -> Signer:
        return Signer(OPERATOR_KEY_ID, self.operator_key)

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return max(self.epochs)

    def epoch_key(self, epoch: int) -> PrivateKey:
        if epoch not in self.epochs:
            raise SettingsError(
                f"the fleet file holds no key of epoch {epoch}: it has {sorted(self.epochs)}"
            )
        return PrivateKey(self.epochs[epoch])

    def new_epoch(self) -> int:
        """A new key pair; its number. Nodes learn it by ``commands.start_epoch``."""
        number = self.epoch + 1
        self.epochs = {**self.epochs, number: PrivateKey.generate().text()}
        return number

    def forget_epochs(self, below: int) -> list[int]:
        """Destroys the private keys of older epochs, for when no pair is sealed to them any
        more."""
        gone = sorted(epoch for epoch in self.epochs if epoch < min(below, self.epoch))
        self.epochs = {epoch: key for epoch, key in self.epochs.items() if epoch not in gone}
        return gone

    def node(self, node: str) -> FleetNode:
        try:
            return self.nodes[node]
        except KeyError:
            known = ", ".join(self.nodes) or "no nodes"
            raise SettingsError(f"{node} is not in the fleet file: it has {known}") from None

    def put(self, node: FleetNode) -> None:
        self.nodes = {**self.nodes, node.node: node}

    def mark(self, node: str, state: NodeState) -> None:
        self.put(self.node(node).model_copy(update={"state": state}))

    def remaining(self) -> list[FleetNode]:
        """Every node that is not removed, by id."""
        return [
            self.nodes[name] for name in sorted(self.nodes) if self.nodes[name].state != "removed"
        ]

    def write_users(self) -> bool:
        """Renders the NATS include of node users; False when it was equal. nats-server needs a
        SIGHUP after it."""
        place = self._path.parent / self.users_file
        text = render_edge_users({node.node: node.nkey for node in self.remaining()})
        if place.exists() and place.read_text() == text:
            return False
        private_folder(place.parent)
        write_private(place, text)
        return True
