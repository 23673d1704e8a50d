"""Prepare one domain for nginx: open and check the keys of a verified bundle, and build its entry.

Keys in clear exist here, for as long as a batch takes, and in nginx. The calls block (tenths of a
millisecond a pair).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from clients.edge_node.bundles.replica import Replica
from clients.edge_node.bundles.verify import (
    SignedBundle,
    leaf_fingerprint,
    reopen_bundle,
    single_private_key,
    verify_attestations,
)
from clients.edge_node.nginx.entry import EntryKind, EntryOrigin, KeyType, NginxEntry, PemPair
from clients.edge_node.nginx.handshake import PairUnusableError, check_pair_loads
from clients.edge_node.serving.origins import with_port
from clients.edge_node.trust import NodeTrust
from shared.contracts.domains import Hsts
from shared.contracts.edge import Bundle, BundleKind, BundlePair
from shared.crypto.sealing import pair_info
from shared.errors import CannotOpen, Malformed, Poison

LeafFingerprints = tuple[tuple[KeyType, str], ...]
"""Key type and leaf fingerprint of each pair."""

_ENTRY_KINDS: dict[BundleKind, EntryKind] = {
    BundleKind.HTTPS: "https",
    BundleKind.HTTP_ONLY: "http_only",
    BundleKind.SUSPENDED: "suspended",
}


@dataclass(frozen=True)
class BundleChange:
    """A domain that must be brought to the bundle ``signed``.

    Without ``signed`` it is brought to what the replica holds (a refill, a changed origin address),
    or, if ``gone`` from the bucket, it is removed with its tombstone. ``sequence``: its place in
    the bucket's stream, 0 without one; ``since``: monotonic time of its arrival."""

    domain: str
    signed: SignedBundle | None = None
    gone: bool = False
    sequence: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def is_new(self) -> bool:
        """Return whether the change is something that the replica does not hold."""
        return self.signed is not None or self.gone


@dataclass
class PreparedBundle:
    """A change that can be put into nginx. ``leaves``: the leaf to serve for each key type."""

    change: BundleChange
    signed: SignedBundle | None
    pairs: tuple[PemPair, ...] = field(default=(), repr=False)
    leaves: LeafFingerprints = ()
    addresses: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """Return the domain that changes."""
        return self.change.domain

    @property
    def kind(self) -> BundleKind:
        """Return the kind of the bundle; REMOVED for a domain that is gone."""
        return self.signed.bundle.kind if self.signed else BundleKind.REMOVED

    @property
    def revision(self) -> int:
        """Return the revision of the bundle, 0 without one."""
        return self.signed.bundle.revision if self.signed else 0

    @property
    def origin_host(self) -> str:
        """Return the name or address of the origin, empty without one."""
        if self.signed is None or self.signed.bundle.origin is None:
            return ""
        return self.signed.bundle.origin.host

    @property
    def proves_each_key_type(self) -> bool:
        """Return whether two pairs are proven one by one.

        That takes a TLS version in which a client can choose the key type: 1.2 or lower."""
        if self.signed is None or len(self.leaves) < 2:
            return False
        return self.signed.bundle.settings.tls_min <= "1.2"

    def make_entry(self) -> NginxEntry | None:
        """Return the entry for nginx, None for a domain that is removed.

        Raises Malformed when the settings contradict each other."""
        if self.signed is None or self.kind is BundleKind.REMOVED:
            return None
        return _make_entry(self.signed.bundle, self.pairs, self.addresses)


@dataclass(frozen=True)
class ApplyFault:
    """A change that could not be applied, and the reason in one sentence without key material."""

    change: BundleChange
    revision: int
    reason: str


class Preparer:
    """Prepares changes.

    It remembers the last bundle of each domain whose pairs were loaded (0.9 ms an RSA pair): a
    refill need not load them again."""

    def __init__(self, replica: Replica, trust: NodeTrust) -> None:
        self._replica = replica
        self._trust = trust
        self._loaded_hashes: dict[str, str] = {}

    def prepare(self, change: BundleChange) -> PreparedBundle | ApplyFault | None:
        """Open, check and load the bundle of a change. Blocking.

        Return None when the change asks for what the replica holds, and it holds nothing."""
        signed = change.signed
        try:
            if change.gone:
                self._loaded_hashes.pop(change.domain, None)
                return PreparedBundle(change, None)
            if signed is None:
                body = self._replica.read_bundle(change.domain)
                if body is None:
                    return None
                signed = reopen_bundle(body)
            pairs, leaves = self._open_pairs(signed, is_new=change.is_new)
            prepared = PreparedBundle(change, signed, pairs, leaves)
            prepared.make_entry()
        except (Poison, CannotOpen, PairUnusableError) as error:
            reason = str(error)
        except OSError as error:
            reason = f"the machine fails: {error.strerror}"
        else:
            self._loaded_hashes[change.domain] = signed.hash
            return prepared
        return ApplyFault(change, signed.bundle.revision if signed else 0, reason)

    def _open_pairs(
        self, signed: SignedBundle, *, is_new: bool
    ) -> tuple[tuple[PemPair, ...], LeafFingerprints]:
        """Open the sealed keys of a bundle, and load each pair unless it was loaded before.

        The attestations of a new bundle are verified. Those of a bundle in the replica were
        verified before it was stored."""
        bundle = signed.bundle
        if is_new:
            fingerprints = verify_attestations(bundle, self._trust.verifier("validator"))
        else:
            fingerprints = [leaf_fingerprint(pair.chain) for pair in bundle.pairs]
        pairs: list[PemPair] = []
        leaves: list[tuple[KeyType, str]] = []
        for pair, fingerprint in zip(bundle.pairs, fingerprints, strict=True):
            key = self._open_key(bundle, pair, fingerprint)
            # nginx loads a pair only when a visitor's handshake asks for it: so a pair that does
            # not load must be found here, before it is put.
            if self._loaded_hashes.get(bundle.domain) != signed.hash:
                check_pair_loads(pair.chain, key)
            key_type = _key_type_of(pair.chain)
            pairs.append((pair.chain, key, key_type))
            leaves.append((key_type, fingerprint))
        return tuple(pairs), tuple(leaves)

    def _open_key(self, bundle: Bundle, pair: BundlePair, fingerprint: str) -> str:
        epoch_key = self._trust.epoch_key(pair.sealed_key.epoch)
        info = pair_info(bundle.account, pair.pair_id, fingerprint)
        return single_private_key(epoch_key.open(pair.sealed_key.box, info))


def _make_entry(
    bundle: Bundle, pairs: tuple[PemPair, ...], addresses: tuple[str, ...]
) -> NginxEntry:
    settings = bundle.settings
    try:
        return NginxEntry(
            name=bundle.domain,
            revision=bundle.revision,
            kind=_ENTRY_KINDS[bundle.kind],
            pairs=pairs,
            redirect_mode=settings.redirect.mode.value,
            redirect_status=settings.redirect.status,
            hsts=_hsts_header(settings.hsts),
            tls_min=settings.tls_min,
            tls_max=settings.tls_max,
            http2=settings.http2,
            origin=_make_origin(bundle, addresses),
        )
    except ValueError as error:
        raise Malformed(f"a bundle contradicts itself: {error}") from None


def _make_origin(bundle: Bundle, addresses: tuple[str, ...]) -> EntryOrigin:
    origin = bundle.origin
    if origin is None:
        return EntryOrigin()
    # A certificate carries no address as a name: an https origin given by its address must carry
    # the visitor's Host.
    is_address = origin.host.replace(".", "").isdecimal() or ":" in origin.host
    return EntryOrigin(
        scheme=origin.scheme,
        addresses=tuple(with_port(address, origin.port) for address in addresses),
        name="" if is_address else origin.host,
    )


def _hsts_header(hsts: Hsts | None) -> str:
    if hsts is None:
        return ""
    parts = [f"max-age={hsts.max_age}"]
    if hsts.include_subdomains:
        parts.append("includeSubDomains")
    if hsts.preload:
        parts.append("preload")
    return "; ".join(parts)


def _key_type_of(chain: str) -> KeyType:
    try:
        key = x509.load_pem_x509_certificate(chain.encode()).public_key()
    except ValueError:
        raise Malformed("the leaf is not a certificate") from None
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ecdsa"
    raise Malformed("the leaf's key is neither RSA nor ECDSA")
