"""What is signed, what is put, what is refused."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from services.edge_sync.domain.bucket_index import Index
from services.edge_sync.domain.bundles import Desired, Held, Step, decide, differs, examine, reopen
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


def trusts(signer: Signer) -> Verifier:
    return Verifier([(signer.key_id, signer.public_text())])


def bundle(
    kind: BundleKind = BundleKind.HTTPS, *, signer: Signer = VALIDATOR, **word: Any
) -> Bundle:
    attested = {
        "account": "acme",
        "domains": ["www.example.test"],
        "pair_id": "pair-1",
        "leaf_fingerprint": LEAF,
        "chain_hash": sha256(CHAIN.encode()).hexdigest(),
    } | word
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


def examined(body: Bundle) -> Desired:
    return examine(body.encode().decode(), "www.example.test", trusts(VALIDATOR))


def test_a_bundle_that_the_validator_vouches_for_is_fit() -> None:
    body = bundle()
    desired = examined(body)
    assert desired.payload == body.encode()
    assert desired.hash == sha256(body.encode()).hexdigest()
    assert desired.served == {LEAF}


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("another account", bundle(account="other")),
        ("another domain", bundle(domains=["www.other.test"])),
        ("another pair", bundle(pair_id="pair-2")),
        ("another chain", bundle(chain_hash="cd" * 32)),
        ("another key", bundle(signer=Signer.generate("validator-1"))),
        ("an unknown key", bundle(signer=Signer.generate("validator-9"))),
    ],
)
def test_an_attestation_for_something_else_is_refused(case: str, body: Bundle) -> None:
    with pytest.raises(Unsigned):
        examined(body)


def test_a_name_of_the_attestation_vouches_as_a_name_of_the_leaf_does() -> None:
    assert examined(bundle(domains=["example.test", "*.example.test"])).served == {LEAF}
    for names in (["*.test"], ["*.www.example.test"], ["example.test"]):
        with pytest.raises(Unsigned):
            examined(bundle(domains=names))


def test_a_bundle_of_another_domain_or_with_pairs_that_do_not_fit_its_kind_is_refused() -> None:
    with pytest.raises(Malformed, match="asked for"):
        examine(bundle().encode().decode(), "www.other.test", trusts(VALIDATOR))
    with pytest.raises(Malformed, match="0 pairs"):
        examined(bundle().model_copy(update={"pairs": []}))
    with pytest.raises(Malformed, match="1 pairs"):
        examined(bundle().model_copy(update={"kind": BundleKind.REMOVED}))
    with pytest.raises(Poison):
        examine("{}", "www.example.test", trusts(VALIDATOR))


@pytest.mark.parametrize(
    ("case", "held", "kind", "step"),
    [
        ("nothing is held", None, BundleKind.HTTPS, Step.PUT),
        ("the same is held", (7, 1, "same"), BundleKind.HTTPS, Step.SAME),
        ("a lower revision is held", (6, 1, "other"), BundleKind.HTTPS, Step.PUT),
        ("a higher revision is held", (8, 1, "other"), BundleKind.HTTPS, Step.STALE),
        ("a higher epoch of the revision is held", (7, 2, "other"), BundleKind.HTTPS, Step.STALE),
        ("a lower epoch of the revision is held", (7, 0, "other"), BundleKind.HTTPS, Step.PUT),
        ("other bytes of the same revision are held", (7, 1, "other"), BundleKind.HTTPS, Step.PUT),
        (
            "a pair is held and none is wanted",
            (6, 1, "other"),
            BundleKind.HTTP_ONLY,
            Step.ERASE_THEN_PUT,
        ),
        (
            "a pair is held and the domain is removed",
            (6, 1, "other"),
            BundleKind.REMOVED,
            Step.ERASE_THEN_PUT,
        ),
    ],
)
def test_what_to_do_with_a_bundle_when(
    case: str, held: tuple[int, int, str] | None, kind: BundleKind, step: Step
) -> None:
    desired = examined(bundle(kind))
    before = None
    if held is not None:
        revision, epoch, content = held
        before = Held(
            revision,
            epoch,
            BundleKind.HTTPS,
            frozenset({LEAF}),
            desired.hash if content == "same" else "",
            3,
        )
    assert decide(before, desired) is step


def test_what_edge_sync_did_not_sign_for_the_domain_is_invalid_and_replaced() -> None:
    signed = OWN.sign(Purpose.BUNDLE, bundle()).encode()
    good = reopen(signed, "www.example.test", trusts(OWN), 5)
    assert good == examined(bundle()).at(5)
    for body, domain in (
        (signed, "www.other.test"),
        (b"", "www.example.test"),
        (b"{}", "www.example.test"),
    ):
        held = reopen(body, domain, trusts(OWN), 6)
        assert not held.valid
        assert decide(held, examined(bundle())) is Step.PUT
    forged = Signer.generate(OWN.key_id).sign(Purpose.BUNDLE, bundle()).encode()
    assert not reopen(forged, "www.example.test", trusts(OWN), 7).valid


def test_a_page_of_config_shows_what_is_missing_newer_or_other_but_never_older() -> None:
    held = examined(bundle()).at(5)
    row = BundlePage(domain="www.example.test", revision=7, hash=held.hash)
    assert differs(None, row)
    assert not differs(held, row)
    assert differs(held, row.model_copy(update={"revision": 8}))
    assert differs(held, row.model_copy(update={"hash": "cd" * 32}))
    assert not differs(held, row.model_copy(update={"revision": 6, "hash": "cd" * 32}))


def test_the_index_has_the_digest_of_what_is_valid_and_remembers_its_roots() -> None:
    index, held = Index("today"), examined(bundle()).at(5)
    empty = index.root()
    index.put("www.example.test", held)
    index.put("forged.example.test", Held.invalid(6))
    index.moved(6)
    expected = Digest()
    expected.put("www.example.test", 7, held.hash)
    assert (index.root(), len(index), index.sequence, index.max_revision()) == (
        expected.root(),
        1,
        6,
        7,
    )
    assert index.agrees("today", 0, empty)
    assert index.agrees("today", 6, expected.root())
    assert not index.agrees("yesterday", 6, expected.root())
    assert not index.agrees("today", 5, expected.root())
    members = index.members(bucket_of("www.example.test"))
    assert members == [BundlePage(domain="www.example.test", revision=7, hash=held.hash)]
    index.put("www.example.test", replace(held, revision=8, sequence=7))
    index.drop("www.example.test")
    index.moved(7)
    assert index.root() == empty
    assert index.get("www.example.test") is None
