"""Bundles: checked before they are signed, read back from the bucket, compared with what is there.
Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle, BundleKind, BundlePage, BundlePair
from shared.contracts.judging import Attestation
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Malformed, Poison, Unsigned

INVALID_REVISION = -1


@dataclass(frozen=True)
class DesiredBundle:
    """A bundle that passed ``check_bundle`` and may be signed.

    ``served``: leaf fingerprints; a handshake must show one of them. Empty without HTTPS."""

    domain: str
    revision: int
    epoch: int
    kind: BundleKind
    served: frozenset[str]
    payload: bytes
    hash: str

    def stored_at(self, sequence: int) -> StoredBundle:
        """Return this bundle as the bucket holds it at ``sequence``."""
        return StoredBundle(
            revision=self.revision,
            epoch=self.epoch,
            kind=self.kind,
            served=self.served,
            hash=self.hash,
            sequence=sequence,
        )


@dataclass(frozen=True)
class StoredBundle:
    """The bundle that the bucket holds for a domain, at ``sequence``."""

    revision: int
    epoch: int
    kind: BundleKind
    served: frozenset[str]
    hash: str
    sequence: int

    @property
    def valid(self) -> bool:
        """Return whether edge_sync signed it. Any desired bundle replaces an invalid one."""
        return self.revision != INVALID_REVISION

    @classmethod
    def invalid(cls, sequence: int) -> StoredBundle:
        """Return the entry for a message that edge_sync did not sign."""
        return cls(
            revision=INVALID_REVISION,
            epoch=0,
            kind=BundleKind.REMOVED,
            served=frozenset(),
            hash="",
            sequence=sequence,
        )


class PutAction(Enum):
    """What to do with a desired bundle.

    ERASE_THEN_PUT: the new bundle takes a pair away, so the pair's bytes are erased first."""

    KEEP_SAME = auto()
    KEEP_NEWER = auto()
    PUT = auto()
    ERASE_THEN_PUT = auto()


def choose_action(stored: StoredBundle | None, desired: DesiredBundle) -> PutAction:
    """Compare what the bucket holds with what config wants; (revision, epoch) never goes down."""
    if stored is None:
        return PutAction.PUT
    if (desired.revision, desired.epoch) < (stored.revision, stored.epoch):
        return PutAction.KEEP_NEWER
    if desired.hash == stored.hash:
        return PutAction.KEEP_SAME
    if stored.served and not desired.served:
        return PutAction.ERASE_THEN_PUT
    return PutAction.PUT


def needs_put(stored: StoredBundle | None, row: BundlePage) -> bool:
    """Return whether config's row is missing in the bucket, newer, or of the same revision with
    other bytes."""
    if stored is None or row.revision > stored.revision:
        return True
    return row.revision == stored.revision and row.hash != stored.hash


def check_bundle(payload: str, domain: str, validator: Verifier) -> DesiredBundle:
    """Check config's bundle of ``domain`` before edge_sync signs it.

    Poison when no node may serve it: another domain, pairs that do not fit the kind, or an
    attestation that the validator did not sign for this account, domain, pair and chain."""
    body = payload.encode()
    bundle = parse(Bundle, body)
    if bundle.domain != domain:
        raise Malformed(f"asked for {domain}, got the bundle of {bundle.domain}")
    if (bundle.kind is BundleKind.HTTPS) != bool(bundle.pairs):
        raise Malformed(f"a bundle of kind {bundle.kind.value} with {len(bundle.pairs)} pairs")
    served = frozenset(_check_attestation(bundle, pair, validator) for pair in bundle.pairs)
    return _describe(bundle, body, served)


def read_stored(body: bytes, domain: str, own: Verifier, sequence: int) -> StoredBundle:
    """Read a message of the bucket. The result is invalid unless edge_sync signed the bundle for
    ``domain``."""
    try:
        signed = parse(Signed, body)
        bundle = own.open(Purpose.BUNDLE, signed, Bundle)
        served = set()
        for pair in bundle.pairs:
            attestation = parse(Attestation, pair.attestation.payload.encode())
            served.add(attestation.leaf_fingerprint)
    except Poison:
        return StoredBundle.invalid(sequence)
    if bundle.domain != domain:
        return StoredBundle.invalid(sequence)
    return _describe(bundle, signed.payload.encode(), frozenset(served)).stored_at(sequence)


def _describe(bundle: Bundle, body: bytes, served: frozenset[str]) -> DesiredBundle:
    return DesiredBundle(
        domain=bundle.domain,
        revision=bundle.revision,
        epoch=bundle.epoch,
        kind=bundle.kind,
        served=served,
        payload=body,
        hash=sha256(body).hexdigest(),
    )


def _check_attestation(bundle: Bundle, pair: BundlePair, validator: Verifier) -> str:
    """Return the leaf fingerprint that the validator attests for this account, domain and pair."""
    attestation = validator.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    fits = (
        attestation.account == bundle.account
        and attestation.covers(bundle.domain)
        and attestation.pair_id == pair.pair_id
        and attestation.chain_hash == sha256(pair.chain.encode()).hexdigest()
    )
    if not fits:
        raise Unsigned(
            f"the attestation of pair {pair.pair_id} is for another account, domain, pair or chain"
        )
    return attestation.leaf_fingerprint
