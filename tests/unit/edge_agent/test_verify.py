"""What a node believes of a bundle, and what it must refuse."""

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
    Order,
    SignedBundle,
    attested,
    is_domain,
    leaf_fingerprint,
    one_key,
    open_bundle,
    reopen_bundle,
)
from shared.contracts.edge import BundleKind
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import Malformed, Poison, Unsigned
from tests.integration.edge_agent.signing import Signers
from tests.support.pki import Authority, pkcs1, pkcs8, rsa_key, sec1

NAME = "www.example.test"


@dataclass
class Words:
    signers: Signers
    edge_sync: Verifier
    validator: Verifier
    authority: Authority

    def open(self, body: bytes, domain: str = NAME) -> SignedBundle:
        return open_bundle(body, domain, self.edge_sync)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    folder: Path = tmp_path_factory.mktemp("words")
    signers = Signers.make(folder)

    def verifier(signer: Signer) -> Verifier:
        return Verifier([(signer.key_id, signer.public_text())])

    return Words(
        signers, verifier(signers.edge_sync), verifier(signers.validator), Authority.create()
    )


def test_a_signed_bundle_opens_with_the_hash_of_its_payload(words: Words) -> None:
    leaf = words.authority.issue([NAME])
    bundle = words.signers.bundle(NAME, 3, words.signers.pair(NAME, leaf))
    found = words.open(words.signers.signed(bundle))
    assert found.bundle == bundle
    assert found.hash == sha256(bundle.encode()).hexdigest()
    assert found.order == Order(3, 1)
    assert attested(found.bundle, words.validator) == [leaf.fingerprint]
    assert reopen_bundle(found.body) == found


Make = Callable[[Words], bytes]


REFUSED = [
    ("nothing", lambda w: b"", Malformed),
    ("bytes that are no JSON", lambda w: b"\xff\x00", Malformed),
    ("a bundle without a signature", lambda w: w.signers.bundle(NAME, 1).encode(), Malformed),
    (
        "another signer of the same id",
        lambda w: w.signers.signed(w.signers.bundle(NAME, 1), Signer.generate("edge_sync-1")),
        Unsigned,
    ),
    (
        "an unknown signer",
        lambda w: w.signers.signed(w.signers.bundle(NAME, 1), Signer.generate("x")),
        Unsigned,
    ),
    (
        "the validator's key",
        lambda w: w.signers.signed(w.signers.bundle(NAME, 1), w.signers.validator),
        Unsigned,
    ),
    (
        "a signature for another purpose",
        lambda w: w.signers.edge_sync.sign(Purpose.CHECKPOINT, w.signers.bundle(NAME, 1)).encode(),
        Unsigned,
    ),
    (
        "another domain's bundle",
        lambda w: w.signers.signed(w.signers.bundle("b.test", 1)),
        Unsigned,
    ),
    (
        "a payload that is no bundle",
        lambda w: w.signers.edge_sync.sign(Purpose.BUNDLE, b"{}").encode(),
        Malformed,
    ),
    (
        "https without a pair",
        lambda w: w.signers.signed(w.signers.bundle(NAME, 1, kind=BundleKind.HTTPS)),
        Malformed,
    ),
    (
        "a removal with an origin",
        lambda w: w.signers.signed(
            w.signers.bundle(
                NAME, 1, kind=BundleKind.REMOVED, origin=w.signers.bundle(NAME, 1).origin
            )
        ),
        Malformed,
    ),
    (
        "a suspension with a pair",
        lambda w: w.signers.signed(
            w.signers.bundle(
                NAME, 1, w.signers.pair(NAME, w.authority.issue([NAME])), kind=BundleKind.SUSPENDED
            )
        ),
        Malformed,
    ),
]


@pytest.mark.parametrize(("case", "make", "error"), REFUSED, ids=[case for case, *_ in REFUSED])
def test_what_is_no_signed_bundle_for_this_domain_is_refused(
    words: Words, case: str, make: Make, error: type[Poison]
) -> None:
    with pytest.raises(error):
        words.open(make(words))


def test_a_changed_payload_is_noticed(words: Words) -> None:
    body = words.signers.signed(words.signers.bundle(NAME, 1))
    with pytest.raises(Unsigned):
        words.open(body.replace(b'\\"revision\\":1', b'\\"revision\\":2'))


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
def test_the_validators_word_must_be_about_this_very_pair(
    words: Words, what: str, value: object
) -> None:
    leaf = words.authority.issue([NAME])
    bundle = words.signers.bundle(NAME, 1, words.signers.pair(NAME, leaf, **{what: value}))
    with pytest.raises(Unsigned, match="vouched for another"):
        attested(bundle, words.validator)


def test_a_name_that_covers_the_domain_vouches_for_it_by_one_label(words: Words) -> None:
    leaf = words.authority.issue([NAME])
    parent = NAME.partition(".")[2]
    bundle = words.signers.bundle(NAME, 1, words.signers.pair(NAME, leaf, domains=[f"*.{parent}"]))
    assert attested(bundle, words.validator) == [leaf.fingerprint]
    deeper = words.signers.bundle(NAME, 1, words.signers.pair(NAME, leaf, domains=[f"*.{NAME}"]))
    with pytest.raises(Unsigned):
        attested(deeper, words.validator)


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
    assert Order(2, 1) > Order(1, 9)
    assert Order(1, 2) > Order(1, 1)


def test_a_chain_is_certificates_and_nothing_else(words: Words) -> None:
    leaf = words.authority.issue([NAME])
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


def test_an_opened_box_is_one_private_key_and_nothing_else(words: Words) -> None:
    leaf = words.authority.issue([NAME])
    for key in (leaf.key_pem, pkcs8(rsa_key()), pkcs1(rsa_key()), sec1(leaf.key)):
        assert one_key(key.encode()) == key
    for hostile in (
        b"",
        b"\xff",
        leaf.chain_pem.encode(),
        f"{leaf.key_pem}{leaf.key_pem}".encode(),
        f"{leaf.key_pem}\x1e{leaf.chain_pem}{leaf.key_pem}".encode(),
    ):
        with pytest.raises(Malformed) as raised:
            one_key(hostile)
        assert "PRIVATE KEY-----" not in str(raised.value)


def test_an_expired_leaf_is_served_until_it_is_replaced(words: Words) -> None:
    """The validator judges periods of validity; a node reads no clock for it."""
    old = words.authority.issue([NAME], not_after=datetime(2026, 1, 1, tzinfo=UTC))
    bundle = words.signers.bundle(NAME, 1, words.signers.pair(NAME, old))
    assert attested(bundle, words.validator) == [old.fingerprint]
