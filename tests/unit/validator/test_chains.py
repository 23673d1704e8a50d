"""Rule D9: the chain from the leaf to a trusted root, in order, and the findings without one."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.validator.mozilla_roots import load_mozilla_roots
from services.validator.text import pem as pem_text
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Severity
from tests.support.pki import (
    NOW,
    Authority,
    Leaf,
    der,
    distinguished,
    ec_key,
    key_usage,
    pem,
    pkcs8,
    rsa_key,
    sign,
)
from tests.unit.validator.sound_pair import (
    DOMAIN,
    ISSUING,
    LEAF,
    ROOT,
    ROOTS,
    accepted,
    codes,
    refusals,
    report,
    report_of,
)

DAY = timedelta(days=1)
MIDDLE = ROOT.intermediate("Test Middle CA")
LOWER = MIDDLE.intermediate("Test Lower CA")
DEEP = LOWER.issue([DOMAIN])
OTHER_ROOT = Authority.create("Other Root CA")
OTHER = OTHER_ROOT.intermediate("Other Issuing CA")


def below(**how: object) -> Leaf:
    return ROOT.intermediate("Variant CA", **how).issue([DOMAIN])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_is_put_in_order_and_the_result_is_the_same(order: tuple[int, ...]) -> None:
    judged = report(pem([DEEP.chain[i] for i in order]), DEEP.key_pem)
    assert accepted(judged)
    assert judged.pairs[0].chain == DEEP.chain_pem
    assert codes(judged) == ([] if order == (0, 1, 2) else [Code.CHAIN_WRONG_ORDER])


def test_strict_mode_refuses_a_wrong_order() -> None:
    judged = report(pem(reversed(DEEP.chain)), DEEP.key_pem, strict=True)
    assert refusals(judged) == [Code.CHAIN_WRONG_ORDER]


def test_a_trailing_root_is_dropped_with_a_notice() -> None:
    judged = report(LEAF.chain_pem + ROOT.pem)
    assert (codes(judged), accepted(judged)) == ([Code.CHAIN_ROOT_INCLUDED], True)
    assert judged.pairs[0].chain == LEAF.chain_pem
    assert refusals(report(LEAF.chain_pem + ROOT.pem, strict=True)) == [Code.CHAIN_ROOT_INCLUDED]


def test_a_leaf_straight_from_a_root_needs_no_intermediate() -> None:
    assert codes(report_of(ROOT.issue([DOMAIN]))) == []


def test_the_leaf_alone_is_incomplete() -> None:
    judged = report(pem(LEAF.certificate))
    assert refusals(judged) == [Code.CHAIN_INCOMPLETE]
    assert judged.findings[0].block == 0


def test_a_leaf_with_the_root_but_without_the_intermediate_is_incomplete() -> None:
    judged = report(pem(LEAF.certificate) + ROOT.pem)
    assert codes(judged) == [Code.CHAIN_ROOT_INCLUDED, Code.CHAIN_INCOMPLETE]


def test_an_intermediate_missing_below_a_known_organisation_is_incomplete() -> None:
    root = Authority.create("Root", organisation="Example Trust")
    middle = root.intermediate("Middle", organisation="Example Trust")
    lower = middle.intermediate("Lower", organisation="Example Trust")
    leaf = lower.issue([DOMAIN])
    judged = report(pem(leaf.chain[:2]), leaf.key_pem, roots=TrustRoots.from_pem(root.pem))
    assert refusals(judged) == [Code.CHAIN_INCOMPLETE]


def test_another_root_is_untrusted() -> None:
    assert refusals(report_of(OTHER.issue([DOMAIN]))) == [Code.CHAIN_UNTRUSTED]


def test_another_root_in_the_upload_does_not_make_it_trusted() -> None:
    leaf = OTHER.issue([DOMAIN])
    judged = report(leaf.chain_pem + OTHER_ROOT.pem, leaf.key_pem)
    assert codes(judged) == [Code.CHAIN_ROOT_INCLUDED, Code.CHAIN_UNTRUSTED]


def test_a_leaf_that_signed_itself_is_untrusted() -> None:
    key = ec_key()
    certificate = sign(
        distinguished(DOMAIN),
        key.public_key(),
        None,
        key,
        extensions=[(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), False)],
    )
    assert refusals(report(pem(certificate), pkcs8(key))) == [Code.CHAIN_UNTRUSTED]


def test_private_roots_are_trusted_only_where_they_are_given() -> None:
    assert accepted(report(roots=ROOTS))
    assert refusals(report(roots=load_mozilla_roots())) == [Code.CHAIN_UNTRUSTED]
    assert accepted(report(roots=load_mozilla_roots(ROOT.pem)))
    assert refusals(report(roots=TrustRoots([]))) == [Code.CHAIN_UNTRUSTED]


def test_an_intermediate_can_itself_be_a_trust_root() -> None:
    assert codes(report(pem(LEAF.certificate), roots=TrustRoots.from_pem(ISSUING.pem))) == []
    assert codes(report(roots=TrustRoots.from_pem(ISSUING.pem))) == []


def test_a_stranger_in_the_chain_is_unrelated() -> None:
    judged = report(LEAF.chain_pem + OTHER.pem)
    assert refusals(judged) == [Code.CHAIN_UNRELATED]
    assert judged.findings[0].block == 2


def test_a_sibling_leaf_is_unrelated() -> None:
    sibling = ISSUING.issue(["other.example.com"])
    assert refusals(report(LEAF.chain_pem + pem(sibling.certificate))) == [Code.CHAIN_UNRELATED]


def with_changed_signature(leaf: Leaf) -> str:
    body = bytearray(der(leaf.certificate))
    body[-1] ^= 1
    return pem_text.encode_block("CERTIFICATE", bytes(body)) + pem(leaf.issuers)


def test_a_changed_signature_is_a_bad_signature() -> None:
    judged = report(with_changed_signature(LEAF))
    assert refusals(judged) == [Code.CHAIN_BAD_SIGNATURE]
    assert judged.findings[0].block == 0


def test_a_changed_intermediate_is_a_bad_signature_of_that_block() -> None:
    forged = Authority(
        sign(
            distinguished("Forged CA"),
            ISSUING.key.public_key(),
            ROOT.certificate,
            ec_key(),
            ca=True,
            key_usage=key_usage("key_cert_sign"),
        ),
        ISSUING.key,
    )
    leaf = forged.issue([DOMAIN])
    judged = report(pem([leaf.certificate, forged.certificate]), leaf.key_pem)
    assert refusals(judged) == [Code.CHAIN_BAD_SIGNATURE]
    assert judged.findings[0].block == 1


def test_a_namesake_with_another_key_is_unrelated_when_the_right_one_is_there() -> None:
    namesake = ROOT.intermediate("Test Issuing CA")
    assert refusals(report(LEAF.chain_pem + namesake.pem)) == [Code.CHAIN_UNRELATED]


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("an expired intermediate", {"not_after": NOW - DAY}),
        ("one not valid yet", {"not_before": NOW + DAY}),
    ],
)
def test_an_intermediate_outside_its_validity_is_chain_expired(
    case: str, how: dict[str, object]
) -> None:
    judged = report_of(below(**how))
    assert refusals(judged) == [Code.CHAIN_EXPIRED], case
    assert judged.findings[0].block == 1


def test_the_last_second_of_an_intermediate_still_counts() -> None:
    assert codes(report_of(below(not_after=NOW))) == [Code.CHAIN_ENDS_FIRST]
    assert refusals(report_of(below(not_after=NOW), at=NOW + timedelta(seconds=1))) == [
        Code.CHAIN_EXPIRED
    ]


def test_an_expired_root_is_chain_expired() -> None:
    root = Authority.create("Old Root", not_after=NOW - DAY)
    assert refusals(report_of(root.issue([DOMAIN]), roots=TrustRoots.from_pem(root.pem))) == [
        Code.CHAIN_EXPIRED
    ]


def test_an_expired_leaf_does_not_blame_its_chain() -> None:
    assert refusals(report(at=LEAF.certificate.not_valid_after_utc + DAY)) == [
        Code.CERTIFICATE_EXPIRED
    ]


@pytest.mark.parametrize(
    ("case", "how", "said"),
    [
        ("an intermediate that is no CA", {"ca": False}, "is not a CA"),
        ("no basic constraints", {"basic_constraints": False}, "is not a CA"),
        (
            "a key usage without certificate signing",
            {"key_usage": key_usage("crl_sign")},
            "key usage",
        ),
        (
            "an extended key usage for mail",
            {
                "extensions": [
                    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
                ]
            },
            "TLS servers",
        ),
        (
            "name constraints elsewhere",
            {"extensions": [(x509.NameConstraints([x509.DNSName("example.net")], None), True)]},
            "name constraints",
        ),
        (
            "an unknown critical extension",
            {
                "extensions": [
                    (
                        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
                        True,
                    )
                ]
            },
            "critical extension",
        ),
        ("a key of 1024 bits", {"key": rsa_key(1024)}, "RSA of 1024 bits"),
    ],
)
def test_an_issuer_that_may_not_issue_makes_the_chain_untrusted(
    case: str, how: dict[str, object], said: str
) -> None:
    variant = dict(how)
    if variant.get("ca") is False:
        variant.pop("ca")
        key = ec_key()
        certificate = sign(
            distinguished("Variant CA"), key.public_key(), ROOT.certificate, ROOT.key
        )
        leaf = Authority(certificate, key, (certificate,)).issue([DOMAIN])
    else:
        leaf = below(**variant)
    judged = report_of(leaf)
    assert Code.CHAIN_UNTRUSTED in refusals(judged), case
    assert any(said in f.message for f in judged.findings)


def test_name_constraints_that_permit_all_names_cause_no_finding() -> None:
    constraints = x509.NameConstraints([x509.DNSName("example.com")], None)
    assert codes(report_of(below(extensions=[(constraints, True)]))) == []


@pytest.mark.parametrize(("length", "fits"), [(1, True), (0, False)])
def test_path_length_limits_are_enforced(length: int, fits: bool) -> None:
    upper = ROOT.intermediate("Upper CA", path_length=length)
    judged = report_of(upper.intermediate("Lower CA").issue([DOMAIN]))
    assert refusals(judged) == ([] if fits else [Code.CHAIN_UNTRUSTED])


def with_sha_1(certificate: x509.Certificate, signer: rsa.RSAPrivateKey) -> x509.Certificate:
    """Return the certificate signed with SHA-1, which the library no longer does itself."""
    sha_256, sha_1 = (
        bytes.fromhex("06092a864886f70d01010b"),
        bytes.fromhex("06092a864886f70d010105"),
    )
    changed = der(certificate).replace(sha_256, sha_1)
    tbs = x509.load_der_x509_certificate(changed).tbs_certificate_bytes
    return x509.load_der_x509_certificate(
        changed[: -signer.key_size // 8] + signer.sign(tbs, padding.PKCS1v15(), hashes.SHA1())
    )


def test_an_intermediate_signed_with_sha_1_is_untrusted() -> None:
    root = Authority.create("RSA Root", key=rsa_key(2048, 1))
    issuing = root.intermediate("SHA-1 CA")
    leaf = issuing.issue([DOMAIN])
    old = with_sha_1(issuing.certificate, root.key)
    judged = report(pem([leaf.certificate, old]), leaf.key_pem, roots=TrustRoots.from_pem(root.pem))
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert "SHA-1" in judged.findings[0].message


def test_a_leaf_signed_with_sha_1_is_no_server_and_the_chain_is_not_blamed() -> None:
    root = Authority.create("RSA Root", key=rsa_key(2048, 1))
    leaf = root.issue([DOMAIN])
    judged = report(
        pem(with_sha_1(leaf.certificate, root.key)),
        leaf.key_pem,
        roots=TrustRoots.from_pem(root.pem),
    )
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER]
    assert "SHA-1" in judged.findings[0].message


def test_a_private_ca_without_key_identifiers_or_key_usage_is_accepted() -> None:
    root = Authority.create("Plain Root", key_usage=None, identifiers=False)
    leaf = root.intermediate("Plain CA", key_usage=None, identifiers=False).issue(
        [DOMAIN], identifiers=False
    )
    assert codes(report_of(leaf, roots=TrustRoots.from_pem(root.pem))) == []


def cross_signed(**how: object) -> x509.Certificate:
    """Return the root of these tests signed by another, as CAs do until old clients know a root."""
    return sign(
        ROOT.certificate.subject,
        ROOT.key.public_key(),
        OTHER_ROOT.certificate,
        OTHER_ROOT.key,
        ca=True,
        **how,
    )  # type: ignore[arg-type]


def test_a_cross_signed_root_is_kept_for_clients_that_need_it() -> None:
    text = LEAF.chain_pem + pem(cross_signed())
    assert codes(report(text)) == []
    judged = report(text, roots=TrustRoots.from_pem(OTHER_ROOT.pem))
    assert (codes(judged), judged.pairs[0].chain) == ([], text)


def test_an_expired_cross_signature_that_is_not_needed_is_a_warning() -> None:
    judged = report(LEAF.chain_pem + pem(cross_signed(not_after=NOW - DAY)))
    assert [(f.code, f.severity) for f in judged.findings] == [
        (Code.CHAIN_SPARE_EXPIRED, Severity.WARNING)
    ]
    assert accepted(judged)


def test_cas_that_sign_each_other_in_circles_are_judged_at_once() -> None:
    keys = [ec_key() for _ in range(3)]
    own = [
        sign(distinguished(f"Circle {n}"), key.public_key(), None, key, ca=True)
        for n, key in enumerate(keys)
    ]
    ring = [
        sign(own[a].subject, keys[a].public_key(), own[b], keys[b], ca=True)
        for a, b in permutations(range(3), 2)
    ]
    leaf = Authority(own[0], keys[0]).issue([DOMAIN])
    judged = report(pem([leaf.certificate, *ring]), leaf.key_pem)
    assert Code.CHAIN_UNTRUSTED in refusals(judged) or Code.CHAIN_INCOMPLETE in refusals(judged)


def test_a_trailing_root_that_signed_itself_with_sha_1_is_dropped_like_any_other() -> None:
    root = Authority.create("RSA Root", key=rsa_key(2048, 1))
    old = with_sha_1(root.certificate, root.key)
    leaf = root.intermediate("Issuing").issue([DOMAIN])
    judged = report(leaf.chain_pem + pem(old), leaf.key_pem, roots=TrustRoots.from_pem(pem(old)))
    assert (codes(judged), accepted(judged)) == ([Code.CHAIN_ROOT_INCLUDED], True)
    assert judged.pairs[0].chain == leaf.chain_pem
