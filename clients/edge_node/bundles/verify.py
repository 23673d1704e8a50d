"""Is this what edge_sync and the validator signed, for this domain? Pure: bytes and public keys in,
a bundle out."""

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
_BLOCK = r"-----BEGIN {0}-----\r?\n(?:[A-Za-z0-9+/=]+\r?\n)+-----END {0}-----\r?\n?"
_CHAIN: Final = re.compile(f"(?:{_BLOCK.format('CERTIFICATE')})+")
_LEAF: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)
_KEY: Final = re.compile(
    "|".join(_BLOCK.format(f"{kind}PRIVATE KEY") for kind in ("", "RSA ", "EC "))
)
_MOST_PAIRS = 2


@dataclass(frozen=True, order=True)
class Order:
    """Bundles of a domain are ordered by it; a lower one is never taken."""

    revision: int
    epoch: int


@dataclass(frozen=True)
class SignedBundle:
    """A bundle that edge_sync signed. ``body``: the Signed as it came; ``hash``: SHA-256 of the
    signed bytes."""

    bundle: Bundle
    body: bytes
    hash: str

    @property
    def domain(self) -> str:
        return self.bundle.domain

    @property
    def order(self) -> Order:
        return Order(self.bundle.revision, self.bundle.epoch)


def is_domain(name: str) -> bool:
    """A lower-case A-label name of two labels or more, ``*.`` first for a wildcard."""
    return len(name) <= 253 and _DOMAIN.fullmatch(name) is not None


def open_bundle(body: bytes, domain: str, edge_sync: Verifier) -> SignedBundle:
    """``domain``: of the key that the bundle came under. Raises Unsigned or Malformed."""
    signed = parse(Signed, body)
    bundle = edge_sync.open(Purpose.BUNDLE, signed, Bundle)
    _check(bundle, domain)
    return SignedBundle(bundle, body, sha256(signed.payload.encode()).hexdigest())


def reopen_bundle(body: bytes) -> SignedBundle:
    """A bundle that was verified when it was stored. Raises Malformed."""
    payload = parse(Signed, body).payload.encode()
    return SignedBundle(parse(Bundle, payload), body, sha256(payload).hexdigest())


def _check(bundle: Bundle, domain: str) -> None:
    if not is_domain(bundle.domain):
        raise Malformed("a bundle is for something that is no domain name")
    if bundle.domain != domain:
        raise Unsigned(f"a bundle for {bundle.domain} came as one for another domain")
    pairs = len(bundle.pairs)
    if not (1 <= pairs <= _MOST_PAIRS if bundle.kind is BundleKind.HTTPS else pairs == 0):
        raise Malformed(f"a bundle of kind {bundle.kind} with {pairs} pairs")
    if (bundle.origin is None) != (bundle.kind is BundleKind.REMOVED):
        raise Malformed(
            f"a bundle of kind {bundle.kind} {'without' if bundle.origin is None else 'with'} "
            "an origin"
        )


def attested(bundle: Bundle, validator: Verifier) -> list[str]:
    """The leaf fingerprint of each pair, once the validator vouches for it. Raises Unsigned or
    Malformed."""
    return [_attested_pair(bundle, pair, validator) for pair in bundle.pairs]


def _attested_pair(bundle: Bundle, pair: BundlePair, validator: Verifier) -> str:
    word = validator.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    fingerprint = leaf_fingerprint(pair.chain)
    faults = [
        what
        for what, holds in (
            ("account", word.account == bundle.account),
            ("domain", word.covers(bundle.domain)),
            ("pair id", word.pair_id == pair.pair_id),
            ("leaf", word.leaf_fingerprint == fingerprint),
            ("chain", word.chain_hash == sha256(pair.chain.encode()).hexdigest()),
        )
        if not holds
    ]
    if faults:
        raise Unsigned(f"the validator vouched for another {', '.join(faults)}")
    return fingerprint


def leaf_fingerprint(chain: str) -> str:
    """SHA-256 of the first certificate's DER, in hex. Malformed unless ``chain`` is certificates
    and nothing else."""
    if _CHAIN.fullmatch(chain) is None:
        raise Malformed("a chain is not PEM certificates and nothing else")
    leaf = _LEAF.match(chain)
    try:
        return sha256(base64.b64decode(leaf[1] if leaf else "")).hexdigest()
    except ValueError:
        raise Malformed("a chain's first certificate is not base64") from None


def one_key(plain: bytes) -> str:
    """An opened box as PEM: one private key and nothing else, or Malformed.

    Sealing is anonymous: whoever knows the fleet's public key can close a box. Text besides the key
    could smuggle a second certificate into what nginx reads."""
    text = plain.decode("ascii", "replace")
    if _KEY.fullmatch(text) is None:
        raise Malformed("an opened box is not one PEM private key")
    return text
