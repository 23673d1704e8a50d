"""How a chain's names, numbers and times are encoded. A refusal names the certificate and the
fault."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.validator.checks.judge import JudgementReport
from services.validator.x509.distinguished_names import canonical_name
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code
from tests.support.pki import NOW, Authority, Leaf, ec_key, pem, rsa_key
from tests.support.unusual_certificates import (
    BMP,
    COMMON_NAME,
    IA5,
    ORGANISATION,
    PRINTABLE,
    UTF8,
    alter_certificate,
    encode_integer,
    encode_name,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_tlv,
)
from tests.unit.validator.sound_pair import (
    DOMAIN,
    ISSUING,
    LEAF,
    ROOT,
    accepted,
    codes,
    refusals,
    report,
    report_of,
)

DAY = timedelta(days=1)
PLAIN = encode_name((COMMON_NAME, UTF8, "Test Issuing CA"))


@pytest.mark.parametrize(
    ("sentence", "other"),
    [
        ("PrintableString", encode_name((COMMON_NAME, PRINTABLE, "Test Issuing CA"))),
        ("IA5String", encode_name((COMMON_NAME, IA5, "Test Issuing CA"))),
        ("BMPString", encode_name((COMMON_NAME, BMP, "Test Issuing CA".encode("utf-16-be")))),
        ("another case", encode_name((COMMON_NAME, UTF8, "TEST issuing ca"))),
        ("more white space", encode_name((COMMON_NAME, UTF8, " Test  Issuing\tCA "))),
    ],
)
def test_names_are_equal_in_any_encoding_case_and_white_space(sentence: str, other: bytes) -> None:
    assert canonical_name(other) == canonical_name(PLAIN), sentence
    leaf = alter_certificate(LEAF.certificate, ISSUING.key, issuer=other)
    judged = report(encode_pem(leaf, *LEAF.issuers))
    # The chain is found, and refused for what two clients make of it: they compare bytes.
    assert (accepted(judged), codes(judged)) == (False, [Code.CERTIFICATE_CLIENTS_REFUSE])
    assert "Firefox and Go refuse it" in judged.findings[0].message


@pytest.mark.parametrize(
    "other",
    [
        encode_name((COMMON_NAME, UTF8, "Test Issuing C\u0410")),
        encode_name((ORGANISATION, UTF8, "Test Issuing CA")),
        encode_name((COMMON_NAME, UTF8, "Test Issuing CA"), (COMMON_NAME, UTF8, "Test Issuing CA")),
        encode_name(),
        b"\x30\x01",
        encode_name((COMMON_NAME, 0x04, "Test Issuing CA")),
        encode_name((COMMON_NAME, UTF8, b"Test Issuing CA\xff")),
    ],
)
def test_other_names_differ(other: bytes) -> None:
    assert canonical_name(other) != canonical_name(PLAIN)


def test_a_root_is_found_by_a_name_of_another_encoding() -> None:
    ca = ROOT.intermediate("CA")
    odd = alter_certificate(
        ca.certificate, ROOT.key, issuer=encode_name((COMMON_NAME, PRINTABLE, "TEST ROOT CA"))
    )
    leaf = ca.issue([DOMAIN])
    judged = report(encode_pem(leaf.certificate, odd), leaf.key_pem)
    assert codes(judged) == [Code.CERTIFICATE_CLIENTS_REFUSE]
    assert judged.findings[0].block == 1


def test_a_signature_is_still_verified_where_names_differ_by_encoding() -> None:
    leaf = alter_certificate(
        LEAF.certificate, ec_key(), issuer=encode_name((COMMON_NAME, PRINTABLE, "Test Issuing CA"))
    )
    assert refusals(report(encode_pem(leaf, *LEAF.issuers))) == [Code.CHAIN_BAD_SIGNATURE]


def test_a_ca_that_certified_its_own_new_key_does_not_count_for_path_lengths() -> None:
    old = ROOT.intermediate("Rolling CA", path_length=0)
    new = old.intermediate("Rolling CA", path_length=0)
    judged = report_of(new.issue([DOMAIN]))
    assert (accepted(judged), codes(judged)) == (True, [])
    assert (
        refusals(report_of(new.intermediate("Another CA").issue([DOMAIN])))
        == [Code.CHAIN_UNTRUSTED] * 2
    )


def generalized(year: int) -> bytes:
    return encode_sequence(
        encode_tlv(0x18, b"20260101000000Z"), encode_tlv(0x18, f"{year}0301000000Z".encode())
    )


SHA_224 = encode_sequence(encode_oid("1.2.840.10045.4.3.1"))
ODD_FORMS = {
    "a negative serial number": {"serial": encode_integer(-5)},
    "a serial number of 26 octets": {"serial": encode_integer(1 << 200)},
    "two signature algorithms that differ": {
        "signed_algorithm": encode_sequence(encode_oid("1.2.840.10045.4.3.3"))
    },
}


@pytest.mark.parametrize("constrained", [False, True], ids=["", "constrained"])
@pytest.mark.parametrize("where", ["leaf", "ca"])
@pytest.mark.parametrize("said", ODD_FORMS)
def test_an_odd_form_is_reported_for_the_certificate_that_has_it(
    said: str, where: str, constrained: bool
) -> None:
    """With name constraints the path library is not asked; the fault is reported all the same."""
    held = x509.NameConstraints([x509.DNSName("example.com")], None)
    ca = ROOT.intermediate("CA", extensions=[(held, True)] if constrained else [])
    leaf = ca.issue([DOMAIN])
    if where == "leaf":
        judged = report(
            encode_pem(
                alter_certificate(leaf.certificate, ca.key, **ODD_FORMS[said]), ca.certificate
            ),
            leaf.key_pem,
        )
    else:
        judged = report(
            encode_pem(
                leaf.certificate, alter_certificate(ca.certificate, ROOT.key, **ODD_FORMS[said])
            ),
            leaf.key_pem,
        )
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    found = judged.findings[-1]
    assert (found.block, said in found.message) == (0 if where == "leaf" else 1, True), (
        found.message
    )
    assert "reissued" in found.hint


@pytest.mark.parametrize("where", ["leaf", "ca"])
def test_a_year_before_2050_as_generalized_time_is_accepted_as_by_all_clients(where: str) -> None:
    ca = ROOT.intermediate("CA")
    leaf = ca.issue([DOMAIN])
    chain = [leaf.certificate, ca.certificate]
    if where == "leaf":
        odd = [alter_certificate(chain[0], ca.key, validity=generalized(2026)), chain[1]]
    else:
        odd = [chain[0], alter_certificate(chain[1], ROOT.key, validity=generalized(2049))]
    judged = report(encode_pem(*odd), leaf.key_pem)
    assert accepted(judged), judged.findings


def test_a_leaf_may_name_the_serial_of_an_issuer_whose_own_is_negative() -> None:
    """The library warns each time that it reads such a number, and a later release will refuse
    it."""
    named = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.certificate.subject)], 4711)
    leaf = ISSUING.issue([DOMAIN], identifiers=False, extensions=[(named, False)])
    issuer = alter_certificate(ISSUING.certificate, ROOT.key, serial=encode_integer(-5))
    assert Code.CHAIN_UNTRUSTED in refusals(
        report(encode_pem(leaf.certificate, issuer), leaf.key_pem)
    )


def test_the_form_of_a_root_causes_no_finding() -> None:
    root = alter_certificate(
        ROOT.certificate,
        ROOT.key,
        serial=encode_integer(-5),
        validity=encode_sequence(
            encode_tlv(0x18, b"20200101000000Z"), encode_tlv(0x18, b"20300101000000Z")
        ),
    )
    assert codes(report(roots=TrustRoots.from_pem(encode_pem(root)))) == []


def test_an_algorithm_that_is_not_accepted_is_named_with_its_block() -> None:
    for leaf, ca, block in (
        (ISSUING.issue([DOMAIN], digest=hashes.SHA224()), ISSUING, 0),
        ((below := ROOT.intermediate("CA", digest=hashes.SHA224())).issue([DOMAIN]), below, 1),
    ):
        judged = report(pem([leaf.certificate, ca.certificate]), leaf.key_pem)
        assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
        assert (judged.findings[0].block, "ECDSA with SHA-224" in judged.findings[0].message) == (
            block,
            True,
        )


def test_a_leaf_signed_with_pss_and_sha_1_is_no_server() -> None:
    root = Authority.create("RSA Root", key=rsa_key(2048, 1))
    made = root.issue([DOMAIN])
    algorithm = encode_sequence(encode_oid("1.2.840.113549.1.1.10"), encode_sequence())
    judged = report(
        encode_pem(signed_with_pss_and_sha_1(made, root.key, algorithm)),
        made.key_pem,
        roots=TrustRoots.from_pem(root.pem),
    )
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER]
    assert "RSASSA-PSS and SHA-1" in judged.findings[0].message


def signed_with_pss_and_sha_1(made: Leaf, signer: rsa.RSAPrivateKey, algorithm: bytes) -> bytes:
    odd = x509.load_der_x509_certificate(
        alter_certificate(made.certificate, signer, signed_algorithm=algorithm, algorithm=algorithm)
    )
    signed = odd.tbs_certificate_bytes
    signature = signer.sign(signed, padding.PSS(padding.MGF1(hashes.SHA1()), 20), hashes.SHA1())
    return encode_sequence(signed, algorithm, encode_tlv(0x03, b"\0" + signature))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW - 300 * DAY, Code.CERTIFICATE_NOT_YET_VALID),
        (NOW + 600 * DAY, Code.CERTIFICATE_EXPIRED),
    ],
)
def test_a_leaf_out_of_its_period_does_not_blame_an_issuer_of_another(
    at: object, expected: Code
) -> None:
    """At a moment within the leaf's period the library would refuse its issuer's period."""
    early = ROOT.intermediate("CA", not_before=NOW - 400 * DAY, not_after=NOW - 200 * DAY)
    late = ROOT.intermediate("CA", not_before=NOW + 500 * DAY, not_after=NOW + 700 * DAY)
    ca = early if expected is Code.CERTIFICATE_NOT_YET_VALID else late
    assert refusals(report_of(ca.issue([DOMAIN]), at=at)) == [expected]


def test_a_period_that_ends_before_it_begins_is_reported_once() -> None:
    validity = encode_sequence(
        encode_tlv(0x17, b"260301000000Z"), encode_tlv(0x17, b"260201000000Z")
    )
    leaf = alter_certificate(LEAF.certificate, ISSUING.key, validity=validity)
    assert refusals(report(encode_pem(leaf, *LEAF.issuers))) == [Code.CERTIFICATE_NOT_YET_VALID]


def deep(organisation: str | None) -> tuple[TrustRoots, list[Authority], Leaf]:
    root = authority = Authority.create("Deep Root", organisation=organisation)
    cas = []
    for number in range(4):
        authority = authority.intermediate(f"D{number}", organisation=organisation)
        cas.append(authority)
    return TrustRoots.from_pem(root.pem), cas, authority.issue([DOMAIN])


@pytest.mark.parametrize("organisation", [None, "Deep Trust"])
def test_a_missing_intermediate_is_named_and_what_is_above_it_is_not_unrelated(
    organisation: str | None,
) -> None:
    roots, (d0, d1, d2, d3), leaf = deep(organisation)
    judged = report(
        pem([leaf.certificate, d3.certificate, d1.certificate, d0.certificate]),
        leaf.key_pem,
        roots=roots,
    )
    assert refusals(judged) == [Code.CHAIN_INCOMPLETE]
    found = judged.findings[0]
    identifier = d2.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value.digest
    assert (found.block, "CN=D2" in found.message) == (1, True)
    assert f"key identifier {identifier.hex(':').upper()}" in found.message


def test_a_chain_that_ends_below_no_known_root_names_issuer_and_key_identifier_too() -> None:
    roots, (_, d1, d2, d3), leaf = deep(None)
    judged = report(
        pem([leaf.certificate, d3.certificate, d2.certificate, d1.certificate]),
        leaf.key_pem,
        roots=roots,
    )
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert "CN=D0 (key identifier " in judged.findings[0].message
    assert "append it" in judged.findings[0].hint


def test_a_stranger_is_still_unrelated_while_the_chain_is_incomplete() -> None:
    roots, (d0, _, _, d3), leaf = deep("Deep Trust")
    stranger = Authority.create("Stranger").intermediate("Strange CA")
    judged = report(
        pem([leaf.certificate, d3.certificate, stranger.certificate, d0.certificate]),
        leaf.key_pem,
        roots=roots,
    )
    assert [(f.code, f.block) for f in judged.findings] == [
        (Code.CHAIN_UNRELATED, 2),
        (Code.CHAIN_INCOMPLETE, 1),
    ]


def test_the_new_order_of_the_blocks_is_reported() -> None:
    judged: JudgementReport = report(pem(reversed(LEAF.chain)))
    assert [f.message for f in judged.findings] == ["The chain was put in order: blocks 1, 0."]
