"""A node accepts signed and attested bundles, and refuses all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.edge_node.bundles.verify import (
    BundleOrder,
    SignedBundle,
    is_domain,
    leaf_fingerprint,
    open_bundle,
    reopen_bundle,
    single_private_key,
    verify_attestations,
)
from shared.contracts.edge import BundleKind
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import Malformed, Poison, Unsigned
from tests.support.fleet_signers import FleetSigners
from tests.support.pki import Authority, pkcs1, pkcs8, rsa_key, sec1

NAME = "www.example.test"


@dataclass
class BundleKeys:
    """The signers of a fleet with the verifiers of their keys, and an authority of certificates."""

    signers: FleetSigners
    edge_sync: Verifier
    validator: Verifier
    authority: Authority

    def open_bundle(self, body: bytes, domain: str = NAME) -> SignedBundle:
        return open_bundle(body, domain, self.edge_sync)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> BundleKeys:
    folder: Path = tmp_path_factory.mktemp("keys")
    signers = FleetSigners.create(folder)

    def verifier_of(signer: Signer) -> Verifier:
        return Verifier([(signer.key_id, signer.public_text())])

    return BundleKeys(
        signers=signers,
        edge_sync=verifier_of(signers.edge_sync),
        validator=verifier_of(signers.validator),
        authority=Authority.create(),
    )


def test_a_signed_bundle_opens_with_the_hash_of_its_payload(keys: BundleKeys) -> None:
    leaf = keys.authority.issue([NAME])
    bundle = keys.signers.make_bundle(NAME, 3, keys.signers.make_pair(NAME, leaf))
    found = keys.open_bundle(keys.signers.sign_bundle(bundle))
    assert found.bundle == bundle
    assert found.hash == sha256(bundle.encode()).hexdigest()
    assert found.order == BundleOrder(3, 1)
    assert verify_attestations(found.bundle, keys.validator) == [leaf.fingerprint]
    assert reopen_bundle(found.body) == found


MakeBody = Callable[[BundleKeys], bytes]

REFUSED = [
    ("nothing", lambda k: b"", Malformed),
    ("bytes that are no JSON", lambda k: b"\xff\x00", Malformed),
    ("a bundle without a signature", lambda k: k.signers.make_bundle(NAME, 1).encode(), Malformed),
    (
        "another signer of the same id",
        lambda k: k.signers.sign_bundle(
            k.signers.make_bundle(NAME, 1), Signer.generate("edge_sync-1")
        ),
        Unsigned,
    ),
    (
        "an unknown signer",
        lambda k: k.signers.sign_bundle(k.signers.make_bundle(NAME, 1), Signer.generate("x")),
        Unsigned,
    ),
    (
        "the validator's key",
        lambda k: k.signers.sign_bundle(k.signers.make_bundle(NAME, 1), k.signers.validator),
        Unsigned,
    ),
    (
        "a signature for another purpose",
        lambda k: k.signers.edge_sync.sign(
            Purpose.CHECKPOINT, k.signers.make_bundle(NAME, 1)
        ).encode(),
        Unsigned,
    ),
    (
        "another domain's bundle",
        lambda k: k.signers.sign_bundle(k.signers.make_bundle("b.test", 1)),
        Unsigned,
    ),
    (
        "a payload that is no bundle",
        lambda k: k.signers.edge_sync.sign(Purpose.BUNDLE, b"{}").encode(),
        Malformed,
    ),
    (
        "https without a pair",
        lambda k: k.signers.sign_bundle(k.signers.make_bundle(NAME, 1, kind=BundleKind.HTTPS)),
        Malformed,
    ),
    (
        "a removal with an origin",
        lambda k: k.signers.sign_bundle(
            k.signers.make_bundle(
                NAME, 1, kind=BundleKind.REMOVED, origin=k.signers.make_bundle(NAME, 1).origin
            )
        ),
        Malformed,
    ),
    (
        "a suspension with a pair",
        lambda k: k.signers.sign_bundle(
            k.signers.make_bundle(
                NAME,
                1,
                k.signers.make_pair(NAME, k.authority.issue([NAME])),
                kind=BundleKind.SUSPENDED,
            )
        ),
        Malformed,
    ),
]


@pytest.mark.parametrize(("case", "make", "error"), REFUSED, ids=[case for case, *_ in REFUSED])
def test_anything_but_a_signed_bundle_for_this_domain_is_refused(
    keys: BundleKeys, case: str, make: MakeBody, error: type[Poison]
) -> None:
    with pytest.raises(error):
        keys.open_bundle(make(keys))


def test_a_changed_payload_is_noticed(keys: BundleKeys) -> None:
    body = keys.signers.sign_bundle(keys.signers.make_bundle(NAME, 1))
    with pytest.raises(Unsigned):
        keys.open_bundle(body.replace(b'\\"revision\\":1', b'\\"revision\\":2'))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("account", "other"),
        ("domains", ["b.test"]),
        ("domains", ["*.b.test"]),
        ("pair_id", "p-2"),
        ("leaf_fingerprint", "0" * 64),
        ("chain_hash", "0" * 64),
    ],
)
def test_the_attestation_must_be_about_this_very_pair(
    keys: BundleKeys, what: str, value: object
) -> None:
    leaf = keys.authority.issue([NAME])
    bundle = keys.signers.make_bundle(NAME, 1, keys.signers.make_pair(NAME, leaf, **{what: value}))
    with pytest.raises(Unsigned, match="vouched for another"):
        verify_attestations(bundle, keys.validator)


def test_an_attested_wildcard_covers_one_label(keys: BundleKeys) -> None:
    leaf = keys.authority.issue([NAME])
    parent = NAME.partition(".")[2]
    bundle = keys.signers.make_bundle(
        NAME, 1, keys.signers.make_pair(NAME, leaf, domains=[f"*.{parent}"])
    )
    assert verify_attestations(bundle, keys.validator) == [leaf.fingerprint]
    deeper = keys.signers.make_bundle(
        NAME, 1, keys.signers.make_pair(NAME, leaf, domains=[f"*.{NAME}"])
    )
    with pytest.raises(Unsigned):
        verify_attestations(deeper, keys.validator)


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise_anything_else(body: bytes) -> None:
    with pytest.raises(Poison):
        open_bundle(body, NAME, Verifier([]))


@pytest.mark.parametrize(
    "name", ["a.test", "*.a.test", "xn--bcher-kva.example", "_x.a.test", "1.2.example"]
)
def test_a_bundle_may_be_for_such_a_name(name: str) -> None:
    assert is_domain(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "test",
        "*.",
        "*",
        "a.*.test",
        "A.test",
        "a..test",
        "../../x",
        "a/b.test",
        "a.test.",
        "-a.test",
        "a.test\n",
        f"{'a' * 64}.test",
        ".".join(["abcdefgh"] * 32),
        "a\0.test",
        "bücher.example",
    ],
)
def test_a_bundle_may_not_be_for_such_a_name(name: str) -> None:
    assert not is_domain(name)


def test_orders_are_by_revision_then_epoch() -> None:
    assert BundleOrder(2, 1) > BundleOrder(1, 9)
    assert BundleOrder(1, 2) > BundleOrder(1, 1)


def test_a_chain_is_certificates_and_nothing_else(keys: BundleKeys) -> None:
    leaf = keys.authority.issue([NAME])
    assert leaf_fingerprint(leaf.chain_pem) == leaf.fingerprint
    for hostile in (
        "",
        leaf.key_pem,
        leaf.chain_pem + leaf.key_pem,
        leaf.chain_pem + "\x1e" + leaf.chain_pem,
        "text\n" + leaf.chain_pem,
        leaf.chain_pem.replace("-----END", "$(x)\n-----END"),
    ):
        with pytest.raises(Malformed):
            leaf_fingerprint(hostile)


def test_an_opened_box_is_one_private_key_and_nothing_else(keys: BundleKeys) -> None:
    leaf = keys.authority.issue([NAME])
    for key in (leaf.key_pem, pkcs8(rsa_key()), pkcs1(rsa_key()), sec1(leaf.key)):
        assert single_private_key(key.encode()) == key
    for hostile in (
        b"",
        b"\xff",
        leaf.chain_pem.encode(),
        f"{leaf.key_pem}{leaf.key_pem}".encode(),
        f"{leaf.key_pem}\x1e{leaf.chain_pem}{leaf.key_pem}".encode(),
    ):
        with pytest.raises(Malformed) as raised:
            single_private_key(hostile)
        assert "PRIVATE KEY-----" not in str(raised.value)


def test_an_expired_leaf_is_served_until_it_is_replaced(keys: BundleKeys) -> None:
    """The validator checks validity dates; the node does not."""
    old = keys.authority.issue([NAME], not_after=datetime(2026, 1, 1, tzinfo=UTC))
    bundle = keys.signers.make_bundle(NAME, 1, keys.signers.make_pair(NAME, old))
    assert verify_attestations(bundle, keys.validator) == [old.fingerprint]
