"""Every key of the platform, made at the first start and only read later."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import ensure_hpke, ensure_nkey, ensure_node, ensure_signer
from deploy.embedded.dev_ca import TestCa
from shared.contracts.commands import TrustedKey
from shared.private_files import private_folder, write_private
from shared.topology import USERS

SIGNING_SERVICES: Final = ("validator", "edge_sync", "billing")
_BACKDATED: Final = timedelta(days=366)
_VALID: Final = timedelta(days=3653)


@dataclass(frozen=True)
class Keys:
    """Where they are. ``data``: the platform's folder; ``users``: public nkey by user name."""

    data: Path
    users: dict[str, str]
    trust_roots: Path

    def seed(self, user: str) -> Path:
        return seed_file(self.data, user)

    def signer(self, service: str) -> Path:
        return self.data / "keys" / f"{service}.ed25519"

    @property
    def submission_private(self) -> Path:
        return self.data / "keys" / "submission.hpke"

    @property
    def submission_public(self) -> Path:
        return self.data / "submission.pub"

    @property
    def operator_public(self) -> Path:
        return self.data / "operator.pub"

    @property
    def trust(self) -> Path:
        return self.data / "trust.json"

    @property
    def fleet_file(self) -> Path:
        return fleet_path(self.data)

    def node_folder(self, node: str) -> Path:
        return self.data / "keys" / "nodes" / node


def fleet_path(data: Path) -> Path:
    return data / "fleet" / "fleet.json"


def seed_file(data: Path, user: str) -> Path:
    return data / "keys" / f"{user}.nk"


def ensure_keys(
    data: Path, users_file: Path, now: datetime, trust_roots: Path | None = None
) -> Keys:
    """``users_file``: the NATS include of node users. ``trust_roots``: used instead of a test
    CA's."""
    private_folder(data / "keys")
    users = {user.name: ensure_nkey(seed_file(data, user.name)) for user in USERS}
    if trust_roots is None:
        trust_roots = TestCa.ensure(data / "test-ca", now).root_file
    keys = Keys(data, users, trust_roots)
    if not keys.fleet_file.exists():
        FleetFile.create(keys.fleet_file, users_file)
    with FleetFile.edit(keys.fleet_file) as fleet:
        trust = commands.sign_trust(fleet, _trusted(keys, fleet.trust_keys, now), now)
        _write_once(keys.operator_public, fleet.operator_signer().public_text())
    _write_once(keys.submission_public, ensure_hpke(keys.submission_private).public().text)
    _write_once(keys.trust, trust.encode().decode())
    return keys


def node_names(keys: Keys, count: int) -> list[str]:
    """``node-1``, ``node-2``… without those that the operator removed: a removed node does not come
    back by itself."""
    known = FleetFile.read(keys.fleet_file).nodes
    names = (f"node-{number}" for number in itertools.count(1))
    allowed = (name for name in names if name not in known or known[name].state != "removed")
    return list(itertools.islice(allowed, count))


def ensure_nodes(keys: Keys, nodes: list[str]) -> None:
    """Credentials and an entry in the fleet file for every node; renders the NATS users."""
    with FleetFile.edit(keys.fleet_file) as fleet:
        for node in nodes:
            credentials = ensure_node(keys.node_folder(node))
            known = fleet.nodes.get(node)
            if known is None or (known.nkey, known.public_key) != (
                credentials.nkey,
                credentials.public_key,
            ):
                fleet.put_node(
                    FleetNode(node=node, public_key=credentials.public_key, nkey=credentials.nkey)
                )
        fleet.write_users()


def _trusted(keys: Keys, known: list[TrustedKey], now: datetime) -> list[TrustedKey]:
    """Backdated and long: a test moves the clock by days and months. A known key keeps its
    validity."""
    wanted = [("submission", "submission-1", ensure_hpke(keys.submission_private).public().text)]
    for service in SIGNING_SERVICES:
        signer = ensure_signer(keys.signer(service), f"{service}-1")
        wanted.append((service, signer.key_id, signer.public_text()))
    found: dict[tuple[str, str, str], TrustedKey] = {
        (key.purpose, key.key_id, key.public_key): key for key in known
    }
    return [
        found.get(one)
        or TrustedKey.model_validate(
            {
                "purpose": one[0],
                "key_id": one[1],
                "public_key": one[2],
                "not_before": now - _BACKDATED,
                "not_after": now + _VALID,
            }
        )
        for one in wanted
    ]


def _write_once(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text + "\n":
        write_private(path, text + "\n")
