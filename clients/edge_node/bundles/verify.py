"""Check bundles: the signature of edge_sync, the domain, and the attestations of the validator.

Pure: bytes and public keys in, a checked bundle out; no file, no clock, no network.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle, BundleKind, BundlePair
from shared.contracts.judging import Attestation
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Malformed, Unsigned

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})+")
_PEM_BLOCK = r"-----BEGIN {0}-----\r?\n(?:[A-Za-z0-9+/=]+\r?\n)+-----END {0}-----\r?\n?"
_CHAIN: Final = re.compile(f"(?:{_PEM_BLOCK.format('CERTIFICATE')})+")
_LEAF: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)
_KEY: Final = re.compile(
    "|".join(_PEM_BLOCK.format(f"{kind}PRIVATE KEY") for kind in ("", "RSA ", "EC "))
)
_MAX_PAIRS = 2


@dataclass(frozen=True, order=True)
class BundleOrder:
    """The order of a domain's bundles: by revision, then by epoch. A node takes no lower one."""

    revision: int
    epoch: int


@dataclass(frozen=True)
class SignedBundle:
    """A bundle that edge_sync signed.

    ``body``: the Signed envelope as it arrived. ``hash``: SHA-256 of the signed payload, in hex."""

    bundle: Bundle
    body: bytes
    hash: str

    @property
    def domain(self) -> str:
        """Return the domain that the bundle is for."""
        return self.bundle.domain

    @property
    def order(self) -> BundleOrder:
        """Return the place of this bundle among the bundles of its domain."""
        return BundleOrder(self.bundle.revision, self.bundle.epoch)


def is_domain(name: str) -> bool:
    """Return whether ``name`` has two or more lower-case A-labels, ``*.`` first for a wildcard."""
    return len(name) <= 253 and _DOMAIN.fullmatch(name) is not None


def open_bundle(body: bytes, domain: str, edge_sync: Verifier) -> SignedBundle:
    """Check the signature and the shape of a bundle and return it.

    ``domain``: the domain of the bucket key under which the bundle arrived.
    Raises Unsigned or Malformed."""
    signed = parse(Signed, body)
    bundle = edge_sync.open(Purpose.BUNDLE, signed, Bundle)
    _check_shape(bundle, domain)
    return SignedBundle(bundle, body, sha256(signed.payload.encode()).hexdigest())


def reopen_bundle(body: bytes) -> SignedBundle:
    """Parse a bundle that was verified before it was stored. Raises Malformed."""
    payload = parse(Signed, body).payload.encode()
    return SignedBundle(parse(Bundle, payload), body, sha256(payload).hexdigest())


def _check_shape(bundle: Bundle, domain: str) -> None:
    if not is_domain(bundle.domain):
        raise Malformed("a bundle is for something that is no domain name")
    if bundle.domain != domain:
        raise Unsigned(f"a bundle for {bundle.domain} came under the key of another domain")
    pair_count = len(bundle.pairs)
    min_pairs = 1 if bundle.kind is BundleKind.HTTPS else 0
    max_pairs = _MAX_PAIRS if bundle.kind is BundleKind.HTTPS else 0
    if not min_pairs <= pair_count <= max_pairs:
        raise Malformed(f"a bundle of kind {bundle.kind} has {pair_count} pairs")
    if bundle.origin is None and bundle.kind is not BundleKind.REMOVED:
        raise Malformed(f"a bundle of kind {bundle.kind} has no origin")
    if bundle.origin is not None and bundle.kind is BundleKind.REMOVED:
        raise Malformed(f"a bundle of kind {bundle.kind} has an origin")


def verify_attestations(bundle: Bundle, validator: Verifier) -> list[str]:
    """Check that the validator attests every pair; return the leaf fingerprint of each pair.

    Raises Unsigned or Malformed."""
    return [_verify_attestation(bundle, pair, validator) for pair in bundle.pairs]


def _verify_attestation(bundle: Bundle, pair: BundlePair, validator: Verifier) -> str:
    attestation = validator.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    fingerprint = leaf_fingerprint(pair.chain)
    differences = []
    if attestation.account != bundle.account:
        differences.append("account")
    if not attestation.covers(bundle.domain):
        differences.append("domain")
    if attestation.pair_id != pair.pair_id:
        differences.append("pair id")
    if attestation.leaf_fingerprint != fingerprint:
        differences.append("leaf")
    if attestation.chain_hash != sha256(pair.chain.encode()).hexdigest():
        differences.append("chain")
    if differences:
        raise Unsigned(f"the validator vouched for another {', '.join(differences)}")
    return fingerprint


def leaf_fingerprint(chain: str) -> str:
    """Return the SHA-256 of the first certificate's DER, in hex.

    Raises Malformed unless ``chain`` is PEM certificates and nothing else."""
    if _CHAIN.fullmatch(chain) is None:
        raise Malformed("a chain is not PEM certificates and nothing else")
    leaf = _LEAF.match(chain)
    try:
        return sha256(base64.b64decode(leaf[1] if leaf else "")).hexdigest()
    except ValueError:
        raise Malformed("a chain's first certificate is not base64") from None


def single_private_key(plain: bytes) -> str:
    """Return the content of an opened box as PEM: one private key and nothing else.

    Raises Malformed otherwise. Sealing is anonymous: everyone who knows the fleet's public key can
    close a box. Text beside the key could bring a second certificate into what nginx reads."""
    text = plain.decode("ascii", "replace")
    if _KEY.fullmatch(text) is None:
        raise Malformed("an opened box is not one PEM private key")
    return text
