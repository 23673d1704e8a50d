"""Checks of bundles before they are signed, the choice of what to put, and the index."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.bundles import (
    DesiredBundle,
    PutAction,
    StoredBundle,
    check_bundle,
    choose_action,
    needs_put,
    read_stored,
)
from shared.contracts.base import SealedKey
from shared.contracts.domains import Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePage, BundlePair
from shared.contracts.judging import Attestation
from shared.crypto.digest import Digest, bucket_of
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import Malformed, Poison, Unsigned

VALIDATOR, OWN = Signer.generate("validator-1"), Signer.generate("edge_sync-1")
CHAIN = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
LEAF = "ab" * 32


def trust_only(signer: Signer) -> Verifier:
    return Verifier([(signer.key_id, signer.public_text())])


def make_bundle(
    kind: BundleKind = BundleKind.HTTPS, *, signer: Signer = VALIDATOR, **changed: Any
) -> Bundle:
    attested = {
        "account": "acme",
        "domains": ["www.example.test"],
        "pair_id": "pair-1",
        "leaf_fingerprint": LEAF,
        "chain_hash": sha256(CHAIN.encode()).hexdigest(),
    } | changed
    pair = BundlePair(
        pair_id="pair-1",
        chain=CHAIN,
        sealed_key=SealedKey(epoch=1, box="AA=="),
        attestation=signer.sign(Purpose.ATTESTATION, Attestation.model_validate(attested)),
    )
    return Bundle(
        domain="www.example.test",
        account="acme",
        revision=7,
        epoch=1,
        kind=kind,
        settings=Settings(),
        origin=None,
        pairs=[pair] if kind is BundleKind.HTTPS else [],
    )


def check(body: Bundle) -> DesiredBundle:
    return check_bundle(body.encode().decode(), "www.example.test", trust_only(VALIDATOR))


def test_a_bundle_that_the_validator_vouches_for_is_fit() -> None:
    body = make_bundle()
    desired = check(body)
    assert desired.payload == body.encode()
    assert desired.hash == sha256(body.encode()).hexdigest()
    assert desired.served == {LEAF}


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("another account", make_bundle(account="other")),
        ("another domain", make_bundle(domains=["www.other.test"])),
        ("another pair", make_bundle(pair_id="pair-2")),
        ("another chain", make_bundle(chain_hash="cd" * 32)),
        ("another key", make_bundle(signer=Signer.generate("validator-1"))),
        ("an unknown key", make_bundle(signer=Signer.generate("validator-9"))),
    ],
)
def test_an_attestation_for_something_else_is_refused(case: str, body: Bundle) -> None:
    with pytest.raises(Unsigned):
        check(body)


def test_a_name_of_the_attestation_vouches_as_a_name_of_the_leaf_does() -> None:
    assert check(make_bundle(domains=["example.test", "*.example.test"])).served == {LEAF}
    for names in (["*.test"], ["*.www.example.test"], ["example.test"]):
        with pytest.raises(Unsigned):
            check(make_bundle(domains=names))


def test_a_bundle_of_another_domain_or_with_pairs_that_do_not_fit_its_kind_is_refused() -> None:
    with pytest.raises(Malformed, match="asked for"):
        check_bundle(make_bundle().encode().decode(), "www.other.test", trust_only(VALIDATOR))
    with pytest.raises(Malformed, match="0 pairs"):
        check(make_bundle().model_copy(update={"pairs": []}))
    with pytest.raises(Malformed, match="1 pairs"):
        check(make_bundle().model_copy(update={"kind": BundleKind.REMOVED}))
    with pytest.raises(Poison):
        check_bundle("{}", "www.example.test", trust_only(VALIDATOR))


@pytest.mark.parametrize(
    ("case", "stored", "kind", "action"),
    [
        ("nothing is stored", None, BundleKind.HTTPS, PutAction.PUT),
        ("the same is stored", (7, 1, "same"), BundleKind.HTTPS, PutAction.KEEP_SAME),
        ("a lower revision is stored", (6, 1, "other"), BundleKind.HTTPS, PutAction.PUT),
        ("a higher revision is stored", (8, 1, "other"), BundleKind.HTTPS, PutAction.KEEP_NEWER),
        (
            "a higher epoch of the revision is stored",
            (7, 2, "other"),
            BundleKind.HTTPS,
            PutAction.KEEP_NEWER,
        ),
        (
            "a lower epoch of the revision is stored",
            (7, 0, "other"),
            BundleKind.HTTPS,
            PutAction.PUT,
        ),
        (
            "other bytes of the same revision are stored",
            (7, 1, "other"),
            BundleKind.HTTPS,
            PutAction.PUT,
        ),
        (
            "a pair is stored and none is wanted",
            (6, 1, "other"),
            BundleKind.HTTP_ONLY,
            PutAction.ERASE_THEN_PUT,
        ),
        (
            "a pair is stored and the domain is removed",
            (6, 1, "other"),
            BundleKind.REMOVED,
            PutAction.ERASE_THEN_PUT,
        ),
    ],
)
def test_what_to_do_with_a_bundle_when(
    case: str, stored: tuple[int, int, str] | None, kind: BundleKind, action: PutAction
) -> None:
    desired = check(make_bundle(kind))
    before = None
    if stored is not None:
        revision, epoch, content = stored
        before = StoredBundle(
            revision,
            epoch,
            BundleKind.HTTPS,
            frozenset({LEAF}),
            desired.hash if content == "same" else "",
            3,
        )
    assert choose_action(before, desired) is action


def test_what_edge_sync_did_not_sign_for_the_domain_is_invalid_and_replaced() -> None:
    signed = OWN.sign(Purpose.BUNDLE, make_bundle()).encode()
    good = read_stored(signed, "www.example.test", trust_only(OWN), 5)
    assert good == check(make_bundle()).stored_at(5)
    for body, domain in (
        (signed, "www.other.test"),
        (b"", "www.example.test"),
        (b"{}", "www.example.test"),
    ):
        stored = read_stored(body, domain, trust_only(OWN), 6)
        assert not stored.valid
        assert choose_action(stored, check(make_bundle())) is PutAction.PUT
    forged = Signer.generate(OWN.key_id).sign(Purpose.BUNDLE, make_bundle()).encode()
    assert not read_stored(forged, "www.example.test", trust_only(OWN), 7).valid


def test_a_page_of_config_shows_what_is_missing_newer_or_other_but_never_older() -> None:
    stored = check(make_bundle()).stored_at(5)
    row = BundlePage(domain="www.example.test", revision=7, hash=stored.hash)
    assert needs_put(None, row)
    assert not needs_put(stored, row)
    assert needs_put(stored, row.model_copy(update={"revision": 8}))
    assert needs_put(stored, row.model_copy(update={"hash": "cd" * 32}))
    assert not needs_put(stored, row.model_copy(update={"revision": 6, "hash": "cd" * 32}))


def test_the_index_has_the_digest_of_what_is_valid_and_remembers_its_roots() -> None:
    index, stored = BucketIndex("today"), check(make_bundle()).stored_at(5)
    empty = index.root()
    index.put("www.example.test", stored)
    index.put("forged.example.test", StoredBundle.invalid(6))
    index.advance_to(6)
    expected = Digest()
    expected.put("www.example.test", 7, stored.hash)
    assert (index.root(), len(index), index.sequence, index.max_revision()) == (
        expected.root(),
        1,
        6,
        7,
    )
    assert index.matches("today", 0, empty)
    assert index.matches("today", 6, expected.root())
    assert not index.matches("yesterday", 6, expected.root())
    assert not index.matches("today", 5, expected.root())
    members = index.members(bucket_of("www.example.test"))
    assert members == [BundlePage(domain="www.example.test", revision=7, hash=stored.hash)]
    index.put("www.example.test", replace(stored, revision=8, sequence=7))
    index.drop("www.example.test")
    index.advance_to(7)
    assert index.root() == empty
    assert index.get("www.example.test") is None
