"""All keys of the platform: made at the first start, only read at later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import ensure_hpke, ensure_nkey, ensure_node, ensure_signer
from deploy.embedded.dev_ca import DevCa
from shared.contracts.commands import TrustedKey
from shared.private_files import private_folder, write_private
from shared.topology import USERS

SIGNING_SERVICES: Final = ("validator", "edge_sync", "billing")
# Trusted keys are valid long before and after now: tests move the clock by days and months.
_BACKDATED: Final = timedelta(days=366)
_VALID: Final = timedelta(days=3653)


@dataclass(frozen=True)
class PlatformKeys:
    """Paths of the keys. ``data``: the platform's folder; ``users``: public nkey by user name."""

    data: Path
    users: dict[str, str]
    trust_roots: Path

    def seed(self, user: str) -> Path:
        """Return the file of the user's nkey seed."""
        return seed_file(self.data, user)

    def signer(self, service: str) -> Path:
        """Return the file of the service's signing key."""
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
        """The signed trust document."""
        return self.data / "trust.json"

    @property
    def fleet_file(self) -> Path:
        return fleet_path(self.data)

    def node_folder(self, node: str) -> Path:
        """Return the folder of the node's credentials."""
        return self.data / "keys" / "nodes" / node


def fleet_path(data: Path) -> Path:
    """Return the path of the fleet file."""
    return data / "fleet" / "fleet.json"


def seed_file(data: Path, user: str) -> Path:
    """Return the path of a NATS user's nkey seed."""
    return data / "keys" / f"{user}.nk"


def ensure_keys(
    data: Path, users_file: Path, now: datetime, trust_roots: Path | None = None
) -> PlatformKeys:
    """Make the keys that are missing and sign the trust document.

    ``users_file``: the NATS include with the node users. ``trust_roots``: roots to use instead of
    those of a development CA."""
    private_folder(data / "keys")
    users = {user.name: ensure_nkey(seed_file(data, user.name)) for user in USERS}
    if trust_roots is None:
        trust_roots = DevCa.ensure(data / "test-ca", now).root_file
    keys = PlatformKeys(data, users, trust_roots)
    if not keys.fleet_file.exists():
        FleetFile.create(keys.fleet_file, users_file)
    with FleetFile.edit(keys.fleet_file) as fleet:
        trust = commands.sign_trust(fleet, _trusted_keys(keys, fleet.trust_keys, now), now)
        _write_if_changed(keys.operator_public, fleet.operator_signer().public_text())
    _write_if_changed(keys.submission_public, ensure_hpke(keys.submission_private).public().text)
    _write_if_changed(keys.trust, trust.encode().decode())
    return keys


def node_names(keys: PlatformKeys, count: int) -> list[str]:
    """Return the names of the first ``count`` nodes: ``node-1``, ``node-2`` and so on."""
    known = FleetFile.read(keys.fleet_file).nodes
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        name = f"node-{number}"
        # A node that the operator removed does not come back by itself.
        if name not in known or known[name].state != "removed":
            names.append(name)
    return names


def ensure_nodes(keys: PlatformKeys, nodes: Sequence[str]) -> None:
    """Make credentials and an entry in the fleet file for every node, and render the NATS users."""
    with FleetFile.edit(keys.fleet_file) as fleet:
        for node in nodes:
            credentials = ensure_node(keys.node_folder(node))
            found = FleetNode(node=node, public_key=credentials.public_key, nkey=credentials.nkey)
            known = fleet.nodes.get(node)
            if known is None or known.public_key != found.public_key or known.nkey != found.nkey:
                fleet.put_node(found)
        fleet.write_users()


def _trusted_keys(
    keys: PlatformKeys, known: Sequence[TrustedKey], now: datetime
) -> list[TrustedKey]:
    """Return the keys for the trust document. A key that it holds already keeps its validity."""
    submission = ensure_hpke(keys.submission_private).public().text
    wanted = [("submission", "submission-1", submission)]
    for service in SIGNING_SERVICES:
        signer = ensure_signer(keys.signer(service), f"{service}-1")
        wanted.append((service, signer.key_id, signer.public_text()))
    found = {(key.purpose, key.key_id, key.public_key): key for key in known}
    trusted: list[TrustedKey] = []
    for purpose, key_id, public_key in wanted:
        fresh = TrustedKey.model_validate(
            {
                "purpose": purpose,
                "key_id": key_id,
                "public_key": public_key,
                "not_before": now - _BACKDATED,
                "not_after": now + _VALID,
            }
        )
        trusted.append(found.get((fresh.purpose, key_id, public_key), fresh))
    return trusted


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text + "\n":
        write_private(path, text + "\n")
