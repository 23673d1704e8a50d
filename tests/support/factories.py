"""Bodies of contracts as tests need them: sound, unless a field is given that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from shared.contracts.base import SealedKey, Signed
from shared.contracts.domains import Origin, Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePair
from shared.contracts.judging import Attestation
from shared.contracts.usage import UsageBatch, UsageCell
from shared.crypto.signing import Purpose, Signer
from shared.ids import new_id

ACCOUNT: Final = "acme"


def unique_name(kind: str) -> str:
    """Return a name that no other test has: nothing is reset between the tests of a platform."""
    return f"{kind}-{new_id()[:8]}"


def unique_domain() -> str:
    """Return a domain that no other test has."""
    return f"{unique_name('d')}.example.test"


def sign_attestation(
    validator: Signer,
    *,
    domain: str,
    pair_id: str,
    leaf: str,
    chain: str,
    changes: Mapping[str, object] | None = None,
) -> Signed:
    """Sign that a pair is good for a domain. ``leaf``: SHA-256.

    ``changes`` replaces fields, as a hostile or broken sender would.
    """
    sound: dict[str, object] = {
        "account": ACCOUNT,
        "domains": [domain],
        "pair_id": pair_id,
        "leaf_fingerprint": leaf,
        "chain_hash": sha256(chain.encode()).hexdigest(),
    }
    attestation = Attestation.model_validate({**sound, **(changes or {})})
    return validator.sign(Purpose.ATTESTATION, attestation)


def make_bundle_pair(
    validator: Signer,
    *,
    domain: str,
    pair_id: str,
    leaf: str,
    chain: str,
    sealed_key: SealedKey,
    attested: Mapping[str, object] | None = None,
) -> BundlePair:
    """Return an attested pair. ``leaf``: SHA-256; ``attested``: see ``sign_attestation``."""
    attestation = sign_attestation(
        validator, domain=domain, pair_id=pair_id, leaf=leaf, chain=chain, changes=attested
    )
    return BundlePair(pair_id=pair_id, chain=chain, sealed_key=sealed_key, attestation=attestation)


def make_bundle(
    domain: str, revision: int, *pairs: BundlePair, kind: BundleKind | None = None, **fields: Any
) -> Bundle:
    """Return a bundle of ``kind``; without one it is https with pairs and http_only without."""
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
            "epoch": 1,
            "kind": kind,
            "settings": Settings(),
            "origin": origin,
            "pairs": list(pairs),
            **fields,
        }
    )


def current_minute() -> int:
    """Return the present minute since 1970, as usage cells count."""
    return int(datetime.now(UTC).timestamp()) // 60


def make_cell(domain: str, requests: int, minute: int | None = None) -> UsageCell:
    """Return a cell with so many HTTPS requests of 100 bytes and one plain one, of now or of
    ``minute``."""
    return UsageCell(
        domain=domain,
        minute=current_minute() if minute is None else minute,
        https_requests=requests,
        https_bytes=requests * 100,
        http_requests=1,
        http_bytes=7,
    )


def split_into_batches(
    log: str, parts: Sequence[Sequence[UsageCell]], node: str = "node-1", size: int = 100
) -> list[UsageBatch]:
    """Return a batch for each part, each of ``size`` bytes of the log."""
    batches = []
    for number, part in enumerate(parts):
        batches.append(
            UsageBatch(
                node=node,
                log=log,
                start=number * size,
                end=(number + 1) * size,
                read_to=len(parts) * size,
                cells=list(part),
            )
        )
    return batches
