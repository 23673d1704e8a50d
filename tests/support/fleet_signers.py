"""Sign what a node takes, as operator, validator and edge_sync, each with its own key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from shared.contracts.base import SealedKey, Signed
from shared.contracts.edge import Bundle, BundleKind, BundlePair
from shared.crypto.sealing import PrivateKey, pair_info
from shared.crypto.signing import Purpose, Signer
from shared.ids import new_id
from tests.support import factories
from tests.support.factories import ACCOUNT
from tests.support.pki import Leaf
from tests.support.trust import PlatformSigners


@dataclass
class FleetSigners:
    """The signing keys of one fleet. ``billing`` may be replaced; ``fleet`` is never saved."""

    keys: PlatformSigners
    fleet: FleetFile
    billing: Signer

    @classmethod
    def create(cls, folder: Path) -> FleetSigners:
        """Make all keys below ``folder``."""
        return cls.of(PlatformSigners.create(folder))

    @classmethod
    def of(cls, keys: PlatformSigners) -> FleetSigners:
        return cls(keys, keys.fleet, keys.billing)

    @property
    def edge_sync(self) -> Signer:
        return self.keys.edge_sync

    @property
    def validator(self) -> Signer:
        return self.keys.validator

    def sign_enrolment(self, node: str) -> Signed:
        """Return the signed keyring of a node, with all epochs of the fleet."""
        body = commands.enrol_node(self.fleet, node, datetime.now(UTC)).body
        assert isinstance(body, Signed)
        return body

    def make_pair(
        self, domain: str, leaf: Leaf, *, key_pem: str | None = None, **attested: Any
    ) -> BundlePair:
        """Seal and attest a pair.

        ``key_pem`` and ``attested`` replace what a hostile or broken sender would change."""
        pair_id = new_id()
        key: PrivateKey = self.fleet.epoch_key(self.fleet.newest_epoch)
        box = key.public().seal(
            (key_pem or leaf.key_pem).encode(), pair_info(ACCOUNT, pair_id, leaf.fingerprint)
        )
        return factories.make_bundle_pair(
            self.validator,
            domain=domain,
            pair_id=pair_id,
            leaf=leaf.fingerprint,
            chain=leaf.chain_pem,
            sealed_key=SealedKey(epoch=self.fleet.newest_epoch, box=box),
            attested=attested,
        )

    def make_bundle(
        self,
        domain: str,
        revision: int,
        *pairs: BundlePair,
        kind: BundleKind | None = None,
        **fields: Any,
    ) -> Bundle:
        """Return a bundle of the newest epoch; see ``factories.make_bundle``."""
        wanted = {"epoch": self.fleet.newest_epoch, **fields}
        return factories.make_bundle(domain, revision, *pairs, kind=kind, **wanted)

    def sign_bundle(self, bundle: Bundle, signer: Signer | None = None) -> bytes:
        """Return the signed bundle as it is in the bucket; edge_sync signs it by default."""
        return (signer or self.edge_sync).sign(Purpose.BUNDLE, bundle).encode()
