"""The desired state of a domain as the fleet gets it: the exact bytes that edge_sync signs.
Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from services.config.domain.model import Domain
from shared.contracts.domains import Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePair


@dataclass(frozen=True)
class EncodedBundle:
    """An encoded bundle. ``hash``: SHA-256 of ``payload``, hexadecimal."""

    payload: bytes
    hash: str
    epoch: int


def build_bundle(domain: Domain) -> EncodedBundle:
    """Encode the bundle of a domain's state.

    ``epoch`` is the lowest of its pairs (0 without a pair), so that it rises only when every key of
    the bundle was sealed anew."""
    # Only a domain that serves HTTPS shows its pairs: a suspended one keeps them here, in config.
    kind = _bundle_kind(domain)
    pairs: list[BundlePair] = []
    epoch = 0
    if kind is BundleKind.HTTPS and domain.live is not None:
        epoch = domain.live.epoch
        for pair in domain.live.pairs:
            pairs.append(
                BundlePair(
                    pair_id=pair.pair_id,
                    chain=pair.chain,
                    sealed_key=pair.sealed_key,
                    attestation=pair.attestation,
                )
            )
    removed = kind is BundleKind.REMOVED
    bundle = Bundle(
        domain=domain.name,
        account=domain.account,
        revision=domain.revision,
        epoch=epoch,
        kind=kind,
        settings=Settings() if removed else domain.settings,
        origin=None if removed else domain.origin,
        pairs=pairs,
    )
    payload = bundle.encode()
    return EncodedBundle(payload, sha256(payload).hexdigest(), epoch)


def _bundle_kind(domain: Domain) -> BundleKind:
    if domain.removed:
        return BundleKind.REMOVED
    if domain.live is None:
        return BundleKind.HTTP_ONLY
    return BundleKind.SUSPENDED if domain.suspended else BundleKind.HTTPS
