"""Sign what a node takes, as operator, validator, edge_sync and billing, each with its own key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import NodeCredentials
from shared.contracts.base import SealedKey, Signed
from shared.contracts.commands import TrustedKey
from shared.contracts.domains import Origin, Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePair
from shared.contracts.judging import Attestation
from shared.crypto.sealing import PrivateKey, pair_info
from shared.crypto.signing import Purpose, Signer
from shared.ids import new_id
from tests.support.pki import Leaf

ACCOUNT = "acme"


@dataclass
class FleetSigners:
    """The signing keys of one fleet."""

    fleet: FleetFile
    edge_sync: Signer = field(default_factory=lambda: Signer.generate("edge_sync-1"))
    validator: Signer = field(default_factory=lambda: Signer.generate("validator-1"))
    billing: Signer = field(default_factory=lambda: Signer.generate("billing-1"))

    @classmethod
    def create(cls, folder: Path) -> FleetSigners:
        return cls(FleetFile.create(folder / "fleet.json", folder / "users.conf"))

    def operator_key(self) -> str:
        return self.fleet.operator_signer().public_text()

    def sign_trust(self) -> Signed:
        """Return the trust document with the three services' keys, valid for 90 days."""
        start = datetime.now(UTC) - timedelta(days=1)
        signers = {
            "edge_sync": self.edge_sync,
            "validator": self.validator,
            "billing": self.billing,
        }
        keys = []
        for purpose, signer in signers.items():
            keys.append(
                TrustedKey(
                    purpose=purpose,  # type: ignore[arg-type]
                    key_id=signer.key_id,
                    public_key=signer.public_text(),
                    not_before=start,
                    not_after=start + timedelta(days=90),
                )
            )
        return commands.sign_trust(self.fleet, keys, datetime.now(UTC))

    def sign_enrolment(self, node: str, credentials: NodeCredentials) -> Signed:
        """Enrol a node and return its signed keyring."""
        self.fleet.put_node(
            FleetNode(node=node, public_key=credentials.public_key, nkey=credentials.nkey)
        )
        body = commands.enrol_node(self.fleet, node, datetime.now(UTC)).body
        assert isinstance(body, Signed)
        return body

    def make_pair(
        self, domain: str, leaf: Leaf, *, key_pem: str | None = None, **attested: Any
    ) -> BundlePair:
        """Seal and attest a pair.

        ``key_pem`` and ``attested`` replace what a hostile or broken sender would change."""
        pair_id = new_id()
        attestation = Attestation(
            **{
                "account": ACCOUNT,
                "domains": [domain],
                "pair_id": pair_id,
                "leaf_fingerprint": leaf.fingerprint,
                "chain_hash": sha256(leaf.chain_pem.encode()).hexdigest(),
                **attested,
            }
        )
        key: PrivateKey = self.fleet.epoch_key(self.fleet.newest_epoch)
        box = key.public().seal(
            (key_pem or leaf.key_pem).encode(), pair_info(ACCOUNT, pair_id, leaf.fingerprint)
        )
        return BundlePair(
            pair_id=pair_id,
            chain=leaf.chain_pem,
            sealed_key=SealedKey(epoch=self.fleet.newest_epoch, box=box),
            attestation=self.validator.sign(Purpose.ATTESTATION, attestation),
        )

    def make_bundle(
        self,
        domain: str,
        revision: int,
        *pairs: BundlePair,
        kind: BundleKind | None = None,
        **fields: Any,
    ) -> Bundle:
        """Return a bundle of ``kind``; without one, https with pairs and http_only without."""
        if kind is None:
            kind = BundleKind.HTTPS if pairs else BundleKind.HTTP_ONLY
        origin = None
        if kind is not BundleKind.REMOVED:
            origin = Origin(scheme="http", host="127.0.0.1", port=1)
        return Bundle(
            **{
                "domain": domain,
                "account": ACCOUNT,
                "revision": revision,
                "epoch": self.fleet.newest_epoch,
                "kind": kind,
                "settings": Settings(),
                "origin": origin,
                "pairs": list(pairs),
                **fields,
            }
        )

    def sign_bundle(self, bundle: Bundle, signer: Signer | None = None) -> bytes:
        """Return the signed bundle as it is in the bucket; edge_sync signs it by default."""
        return (signer or self.edge_sync).sign(Purpose.BUNDLE, bundle).encode()
