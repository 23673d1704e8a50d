"""The desired state of a domain as the fleet gets it: the exact bytes that edge_sync signs.
Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from services.config.domain.model import Domain
from shared.contracts.domains import Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePair


@dataclass(frozen=True)
class Desired:
    """``hash``: SHA-256 of ``payload``, hexadecimal."""

    payload: bytes
    hash: str
    epoch: int


def desired(domain: Domain) -> Desired:
    """The bundle of the state. ``epoch``: the lowest of its pairs (0 without a pair), so that it
    rises only when every key of it was sealed anew."""
    kind = _kind(domain)
    served = domain.live if kind is BundleKind.HTTPS else None
    pairs = [
        BundlePair(
            pair_id=p.pair_id, chain=p.chain, sealed_key=p.sealed_key, attestation=p.attestation
        )
        for p in (served.pairs if served else ())
    ]
    bundle = Bundle(
        domain=domain.name,
        account=domain.account,
        revision=domain.revision,
        epoch=served.epoch if served else 0,
        kind=kind,
        settings=domain.settings if kind is not BundleKind.REMOVED else Settings(),
        origin=None if kind is BundleKind.REMOVED else domain.origin,
        pairs=pairs,
    )
    payload = bundle.encode()
    return Desired(payload, sha256(payload).hexdigest(), bundle.epoch)


def _kind(domain: Domain) -> BundleKind:
    if domain.removed:
        return BundleKind.REMOVED
    if domain.live is None:
        return BundleKind.HTTP_ONLY
    return BundleKind.SUSPENDED if domain.suspended else BundleKind.HTTPS
