"""What a bundle is worth and what to do with it: pure. What comes from config is judged before it
is signed."""

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
class Desired:
    """A bundle fit to be signed. ``served``: the leaf fingerprints of which a handshake must show
    one; none without HTTPS."""

    domain: str
    revision: int
    epoch: int
    kind: BundleKind
    served: frozenset[str]
    payload: bytes
    hash: str

    def at(self, sequence: int) -> Held:
        return Held(self.revision, self.epoch, self.kind, self.served, self.hash, sequence)


@dataclass(frozen=True)
class Held:
    """What the bucket holds of a domain, at ``sequence``."""

    revision: int
    epoch: int
    kind: BundleKind
    served: frozenset[str]
    hash: str
    sequence: int

    @property
    def valid(self) -> bool:
        """Whether it is a bundle that edge_sync signed; what else stands there is replaced by
        whatever is desired."""
        return self.revision != INVALID_REVISION

    @classmethod
    def invalid(cls, sequence: int) -> Held:
        return cls(INVALID_REVISION, 0, BundleKind.REMOVED, frozenset(), "", sequence)


class Step(Enum):
    """What to do with a desired bundle. ERASE_THEN_PUT: the bytes of the pair that it takes away go
    first."""

    SAME = auto()
    STALE = auto()
    PUT = auto()
    ERASE_THEN_PUT = auto()


def decide(held: Held | None, desired: Desired) -> Step:
    """Never to a lower (revision, epoch)."""
    if held is None:
        return Step.PUT
    if (desired.revision, desired.epoch) < (held.revision, held.epoch):
        return Step.STALE
    if desired.hash == held.hash:
        return Step.SAME
    if held.served and not desired.served:
        return Step.ERASE_THEN_PUT
    return Step.PUT


def differs(held: Held | None, row: BundlePage) -> bool:
    """Whether config's page shows something that the bucket should hold and does not."""
    if held is None:
        return True
    return row.revision > held.revision or (row.revision == held.revision and row.hash != held.hash)


def examine(payload: str, domain: str, validator: Verifier) -> Desired:
    """Config's bundle of ``domain``; Poison when it is not one that a node may be made to serve."""
    body = payload.encode()
    bundle = parse(Bundle, body)
    if bundle.domain != domain:
        raise Malformed(f"asked for {domain}, got the bundle of {bundle.domain}")
    if (bundle.kind is BundleKind.HTTPS) != bool(bundle.pairs):
        raise Malformed(f"a bundle of kind {bundle.kind.value} with {len(bundle.pairs)} pairs")
    return _desired(
        bundle, body, frozenset(_attested(bundle, pair, validator) for pair in bundle.pairs)
    )


def reopen(body: bytes, domain: str, own: Verifier, sequence: int) -> Held:
    """What the bucket holds under ``domain``; invalid where edge_sync did not sign it for that
    domain."""
    try:
        signed = parse(Signed, body)
        bundle = own.open(Purpose.BUNDLE, signed, Bundle)
        served = frozenset(
            parse(Attestation, p.attestation.payload.encode()).leaf_fingerprint
            for p in bundle.pairs
        )
    except Poison:
        return Held.invalid(sequence)
    if bundle.domain != domain:
        return Held.invalid(sequence)
    return _desired(bundle, signed.payload.encode(), served).at(sequence)


def _desired(bundle: Bundle, body: bytes, served: frozenset[str]) -> Desired:
    return Desired(
        bundle.domain,
        bundle.revision,
        bundle.epoch,
        bundle.kind,
        served,
        body,
        sha256(body).hexdigest(),
    )


def _attested(bundle: Bundle, pair: BundlePair, validator: Verifier) -> str:
    """The leaf fingerprint of a pair that the validator vouches for, for this account and
    domain."""
    word = validator.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    fits = (
        word.account == bundle.account
        and word.covers(bundle.domain)
        and word.pair_id == pair.pair_id
        and word.chain_hash == sha256(pair.chain.encode()).hexdigest()
    )
    if not fits:
        raise Unsigned(
            f"the attestation of pair {pair.pair_id} is for another account, domain, pair or chain"
        )
    return word.leaf_fingerprint
