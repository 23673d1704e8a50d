"""One domain on its way into nginx: from a verified bundle to an entry with its keys opened and
load-checked.

Keys in clear live here, for as long as a batch takes, and in nginx. Blocking (tenths of a
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
    attested,
    leaf_fingerprint,
    one_key,
    reopen_bundle,
)
from clients.edge_node.nginx import entry as e
from clients.edge_node.nginx.handshake import PairUnusableError, load_check
from clients.edge_node.serving.origins import with_port
from clients.edge_node.trust import Trusted
from shared.contracts.domains import Hsts
from shared.contracts.edge import Bundle, BundleKind
from shared.crypto.sealing import pair_info
from shared.errors import CannotOpen, Malformed, Poison

Leaves = tuple[tuple[e.KeyType, str], ...]


@dataclass(frozen=True)
class Change:
    """A domain to bring to ``signed``; None: to what the replica holds (a refill, a changed origin
    address), or away where it is ``gone`` from the bucket, tombstone and all.

    ``sequence``: its place in the bucket's stream, 0 without one; ``since``: monotonic time of its
    arrival."""

    domain: str
    signed: SignedBundle | None = None
    gone: bool = False
    sequence: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def is_new(self) -> bool:
        """It says something that the replica does not hold."""
        return self.signed is not None or self.gone


@dataclass
class Work:
    """A change that can be put. ``leaves``: the fingerprint that each key type must be served
    with."""

    change: Change
    signed: SignedBundle | None
    pairs: tuple[e.Pair, ...] = field(default=(), repr=False)
    leaves: Leaves = ()
    addresses: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        return self.change.domain

    @property
    def kind(self) -> BundleKind:
        return self.signed.bundle.kind if self.signed else BundleKind.REMOVED

    @property
    def origin_host(self) -> str:
        origin = self.signed.bundle.origin if self.signed else None
        return origin.host if origin else ""

    @property
    def asks_each_type(self) -> bool:
        """Two pairs are proven one by one, where the TLS range has a version in which a client can
        choose."""
        settings = self.signed.bundle.settings if self.signed else None
        return len(self.leaves) > 1 and settings is not None and settings.tls_min <= "1.2"

    def entry(self) -> e.Entry | None:
        """None for what goes away. Malformed when the settings contradict each other."""
        if self.signed is None or self.kind is BundleKind.REMOVED:
            return None
        return _entry(self.signed.bundle, self.pairs, self.addresses)


@dataclass(frozen=True)
class Fault:
    change: Change
    revision: int
    why: str


class Workshop:
    """Remembers which bundle of a domain has been load-checked (0.9 ms an RSA pair): a refill need
    not do it again."""

    def __init__(self, replica: Replica, trusted: Trusted) -> None:
        self._replica, self._trusted = replica, trusted
        self._loaded: dict[str, str] = {}

    def prepare(self, change: Change) -> Work | Fault | None:
        """None: there is nothing of the domain in the replica. What a fault says holds no key
        material."""
        signed = change.signed
        try:
            if change.gone:
                self._loaded.pop(change.domain, None)
                return Work(change, None)
            if signed is None:
                body = self._replica.read(change.domain)
                if body is None:
                    return None
                signed = reopen_bundle(body)
            pairs, leaves = self._open(signed, fresh=change.is_new)
            work = Work(change, signed, pairs, leaves)
            work.entry()
        except (Poison, CannotOpen, PairUnusableError) as error:
            return Fault(change, signed.bundle.revision if signed else 0, str(error))
        except OSError as error:
            return Fault(
                change,
                signed.bundle.revision if signed else 0,
                f"the machine fails: {error.strerror}",
            )
        else:
            self._loaded[change.domain] = signed.hash
            return work

    def _open(self, signed: SignedBundle, *, fresh: bool) -> tuple[tuple[e.Pair, ...], Leaves]:
        """``fresh``: the validator's word is checked; what the replica holds was checked before it
        came there."""
        bundle = signed.bundle
        if fresh:
            fingerprints = attested(bundle, self._trusted.verifier("validator"))
        else:
            fingerprints = [leaf_fingerprint(pair.chain) for pair in bundle.pairs]
        pairs: list[e.Pair] = []
        for pair, leaf in zip(bundle.pairs, fingerprints, strict=True):
            epoch_key = self._trusted.epoch_key(pair.sealed_key.epoch)
            key = one_key(
                epoch_key.open(pair.sealed_key.box, pair_info(bundle.account, pair.pair_id, leaf))
            )
            if self._loaded.get(bundle.domain) != signed.hash:
                load_check(pair.chain, key)
            pairs.append((pair.chain, key, _key_type(pair.chain)))
        leaves = tuple((pair[2], leaf) for pair, leaf in zip(pairs, fingerprints, strict=True))
        return tuple(pairs), leaves


def _entry(bundle: Bundle, pairs: tuple[e.Pair, ...], addresses: tuple[str, ...]) -> e.Entry:
    settings = bundle.settings
    try:
        return e.Entry(
            name=bundle.domain,
            revision=bundle.revision,
            kind=_KINDS[bundle.kind],
            pairs=pairs,
            redirect_mode=settings.redirect.mode.value,
            redirect_status=settings.redirect.status,
            hsts=_hsts(settings.hsts),
            tls_min=settings.tls_min,
            tls_max=settings.tls_max,
            http2=settings.http2,
            origin=_origin(bundle, addresses),
        )
    except ValueError as error:
        raise Malformed(f"a bundle that contradicts itself: {error}") from None


_KINDS: dict[BundleKind, e.Kind] = {
    BundleKind.HTTPS: "https",
    BundleKind.HTTP_ONLY: "http_only",
    BundleKind.SUSPENDED: "suspended",
}


def _origin(bundle: Bundle, addresses: tuple[str, ...]) -> e.Origin:
    origin = bundle.origin
    if origin is None:
        return e.Origin()
    # An address is no name that a certificate carries: an https origin named by address must carry
    # the visitor's Host.
    name = "" if origin.host.replace(".", "").isdecimal() or ":" in origin.host else origin.host
    return e.Origin(
        origin.scheme, tuple(with_port(address, origin.port) for address in addresses), name
    )


def _hsts(hsts: Hsts | None) -> str:
    if hsts is None:
        return ""
    parts = [f"max-age={hsts.max_age}"]
    parts += ["includeSubDomains"] * hsts.include_subdomains + ["preload"] * hsts.preload
    return "; ".join(parts)


def _key_type(chain: str) -> e.KeyType:
    try:
        key = x509.load_pem_x509_certificate(chain.encode()).public_key()
    except ValueError:
        raise Malformed("the leaf is not a certificate") from None
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ecdsa"
    raise Malformed("the leaf's key is neither RSA nor ECDSA")
