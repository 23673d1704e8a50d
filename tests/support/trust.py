"""The keys of a test's platform: operator, validator, edge_sync and billing, and what pins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clients.fleet.fleet_file import FleetFile
from clients.fleet.keys import NODE_SEED
from deploy.embedded.keys import PlatformKeys, ensure_keys, ensure_nodes
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.crypto.signing import Signer, Trust
from shared.runtime import read_signer


@dataclass(frozen=True)
class PlatformSigners:
    """``files`` tells where each key is; the signers are read from there."""

    files: PlatformKeys
    validator: Signer
    edge_sync: Signer
    billing: Signer

    @classmethod
    def create(cls, folder: Path, nodes: Sequence[str] = ()) -> PlatformSigners:
        """Make every key below ``folder``, with a trust document and credentials of ``nodes``.

        A second call reads what the first one made.
        """
        files = ensure_keys(folder, folder / "nats" / "edge_users.conf", datetime.now(UTC))
        ensure_nodes(files, list(nodes))
        return cls._read(files)

    @classmethod
    def read(cls, folder: Path) -> PlatformSigners:
        """Read the keys of a platform that runs below ``folder``."""
        return cls._read(
            PlatformKeys(folder, users={}, trust_roots=folder / "test-ca" / "root.pem")
        )

    @classmethod
    def _read(cls, files: PlatformKeys) -> PlatformSigners:
        validator, edge_sync, billing = (
            read_signer(files.signer(service), service)
            for service in ("validator", "edge_sync", "billing")
        )
        return cls(files, validator, edge_sync, billing)

    @property
    def fleet(self) -> FleetFile:
        """The operator's file as it is now."""
        return FleetFile.read(self.files.fleet_file)

    @property
    def document(self) -> Signed:
        """The trust document, signed by the operator."""
        return parse(Signed, self.files.trust.read_bytes())

    def trust(self) -> Trust:
        """Return the keys that the trust document names, as every program reads it."""
        operator_key = self.files.operator_public.read_text().strip()
        return Trust.read(operator_key, self.document, datetime.now(UTC))

    def seed(self, user: str) -> Path:
        """Return the nkey seed of a user of the topology or, for ``node-<id>``, of a node."""
        node = user.removeprefix("node-")
        node_seed = self.files.node_folder(node) / NODE_SEED
        if node != user and node_seed.exists():
            return node_seed
        return self.files.seed(user)
