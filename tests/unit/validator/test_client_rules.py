"""Rule D13: verdicts follow the clients, each certificate made here byte for byte."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.validator.checks.judge import JudgementReport
from services.validator.x509 import der
from services.validator.x509.client_rules import is_go_domain
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Severity
from tests.support.pki import Authority, Leaf, distinguished, ec_key, rsa_key, sign
from tests.support.pki import der as der_of
from tests.support.unusual_certificates import (
    BMP,
    COMMON_NAME,
    IA5,
    NULL,
    PRINTABLE,
    T61,
    UTF8,
    alter_certificate,
    encode_alternative_names,
    encode_extension,
    encode_general_name,
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
    report,
    report_of,
)

KEY = ec_key()
POLICY = encode_oid("1.3.6.1.4.1.99999.7")
BARE = sign(
    distinguished(DOMAIN),
    KEY.public_key(),
    ISSUING.certificate,
    ISSUING.key,
    basic_constraints=False,
    key_usage=None,
    identifiers=False,
)
SAN = encode_alternative_names(encode_general_name(2, DOMAIN))


def judged_leaf(*extensions: bytes, san: bytes = SAN, **parts: bytes) -> JudgementReport:
    """Judge a leaf that has these extensions and a SAN, and nothing else."""
    bare = Leaf(BARE, KEY, LEAF.issuers)
    first, *others = [part for part in (san, *extensions) if part]
    odd = with_extensions(bare, (first, *others), **parts)
    return report(encode_pem(odd, *bare.issuers), bare.key_pem)


def with_extensions(leaf: Leaf, extensions: tuple[bytes, ...], **parts: bytes) -> bytes:
    """Return ``leaf`` with extensions added; ``altered`` adds to a list that must be there."""
    made = sign(
        distinguished(DOMAIN),
        leaf.key.public_key(),
        ISSUING.certificate,
        ISSUING.key,
        basic_constraints=False,
        key_usage=None,
        identifiers=False,
        extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), NULL), False)],
    )
    return alter_certificate(made, ISSUING.key, more=extensions, **parts)


def judged_ca(*extensions: bytes, **parts: bytes) -> JudgementReport:
    """Judge a sound leaf below a CA that has these extensions too."""
    ca = ROOT.intermediate("CA")
    leaf = ca.issue([DOMAIN])
    odd = alter_certificate(ca.certificate, ROOT.key, more=extensions, **parts)
    return report(encode_pem(leaf.certificate, odd), leaf.key_pem)


def refusing(judged: JudgementReport) -> set[str]:
    found = set()
    for finding in judged.findings:
        if finding.code in (Code.CERTIFICATE_CLIENTS_REFUSE, Code.CERTIFICATE_CLIENT_REFUSES):
            clause = finding.message.rpartition(":")[2]
            found |= {c for c in ("Firefox", "Chrome", "Go", "OpenSSL") if c in clause}
    return found


ACCEPTED = {
    "basic constraints that write out FALSE": encode_extension(
        "2.5.29.19", encode_sequence(b"\x01\x01\x00")
    ),
    "a path length without the CA flag": encode_extension(
        "2.5.29.19", encode_sequence(encode_integer(0))
    ),
    "encipherOnly without keyAgreement": encode_extension("2.5.29.15", b"\x03\x02\x00\x81", True),
    "a policy qualifier that nobody knows": encode_extension(
        "2.5.29.32",
        encode_sequence(
            encode_sequence(POLICY, encode_sequence(encode_sequence(encode_oid("1.2.3.4.5"), NULL)))
        ),
    ),
    "a TLS feature of another number": encode_extension(
        "1.3.6.1.5.5.7.1.24", encode_sequence(encode_integer(99))
    ),
    "an issuerAltName that is no DER": encode_extension("2.5.29.18", b"junk"),
    "timestamps that are no DER": encode_extension("1.3.6.1.4.1.11129.2.4.2", b"junk"),
    "a template of Microsoft's that is no DER": encode_extension("1.3.6.1.4.1.311.21.7", b"\xff"),
    "key usage padded with zeros": encode_extension("2.5.29.15", b"\x03\x03\x00\x80\x00", True),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_only_a_library_cannot_read_is_accepted(case: str) -> None:
    judged = judged_leaf(ACCEPTED[case])
    assert (accepted(judged), codes(judged)) == (True, []), judged.findings


@pytest.mark.parametrize(
    "other",
    [
        encode_tlv(0xA3, encode_tlv(0x80, b"x")),
        encode_tlv(0xA5, encode_tlv(0xA1, encode_tlv(UTF8, b"x"))),
    ],
    ids=["x400Address", "ediPartyName"],
)
def test_a_name_of_a_form_that_no_client_reads_is_left_aside(other: bytes) -> None:
    judged = judged_leaf(san=encode_alternative_names(encode_general_name(2, DOMAIN), other))
    assert (accepted(judged), codes(judged)) == (True, [])


def test_a_distinguished_name_in_another_order_is_accepted() -> None:
    parts = [
        encode_sequence(encode_oid(COMMON_NAME), encode_tlv(UTF8, b"z")),
        encode_sequence(encode_oid("2.5.4.5"), encode_tlv(UTF8, b"a")),
    ]
    judged = judged_leaf(subject=encode_sequence(encode_tlv(der.SET, *reversed(parts))))
    assert (accepted(judged), codes(judged)) == (True, []), judged.findings


REFUSED = {
    "the same policy twice": (
        encode_extension(
            "2.5.29.32", encode_sequence(encode_sequence(POLICY), encode_sequence(POLICY))
        ),
        {"Chrome", "Go"},
    ),
    "no policy": (encode_extension("2.5.29.32", encode_sequence()), {"Chrome"}),
    "no qualifier": (
        encode_extension("2.5.29.32", encode_sequence(encode_sequence(POLICY, encode_sequence()))),
        {"Chrome"},
    ),
    "an empty AIA": (encode_extension("1.3.6.1.5.5.7.1.1", encode_sequence()), {"Chrome"}),
    "a URI in AIA that is not ASCII": (
        encode_extension(
            "1.3.6.1.5.5.7.1.1",
            encode_sequence(
                encode_sequence(
                    encode_oid("1.3.6.1.5.5.7.48.2"), encode_general_name(6, b"http://\xe9/")
                )
            ),
        ),
        {"Chrome"},
    ),
    "policy mappings that are no DER": (encode_extension("2.5.29.33", b"junk"), {"Chrome", "Go"}),
    "no policy mapping": (encode_extension("2.5.29.33", encode_sequence()), {"Chrome"}),
    "policy constraints that are no DER": (
        encode_extension("2.5.29.36", b"junk"),
        {"Chrome", "Go"},
    ),
    "empty policy constraints": (encode_extension("2.5.29.36", encode_sequence()), {"Chrome"}),
    "inhibitAnyPolicy that is no number": (
        encode_extension("2.5.29.54", b"junk"),
        {"Chrome", "Go"},
    ),
    "an empty extended key usage": (
        encode_extension("2.5.29.37", encode_sequence()),
        {"Firefox", "Chrome"},
    ),
    "a subject key identifier that is no DER": (
        encode_extension("2.5.29.14", b"junk"),
        {"Chrome", "Go", "OpenSSL"},
    ),
    "an issuer's issuer without a serial": (
        encode_extension(
            "2.5.29.35", encode_sequence(encode_tlv(0xA1, encode_general_name(2, "x")))
        ),
        {"Chrome"},
    ),
    "a written default of an extension": (
        encode_extension("1.3.6.1.4.1.99999.9", NULL, b"\x01\x01\x00"),
        {"Chrome"},
    ),
    "a path length over 127": (
        encode_extension("2.5.29.19", encode_sequence(b"\x01\x01\x00", encode_integer(128))),
        {"Firefox"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contents_that_clients_refuse_are_refused_with_their_names(case: str) -> None:
    odd, clients = REFUSED[case]
    judged = judged_leaf(odd)
    assert not accepted(judged)
    assert refusing(judged) >= clients, judged.findings


@pytest.mark.parametrize(
    ("length", "clients"), [(127, set()), (128, {"Firefox"}), (300, {"Firefox", "Chrome"})]
)
def test_a_path_length_that_a_client_cannot_count_is_refused(
    length: int, clients: set[str]
) -> None:
    judged = report_of(ROOT.intermediate("CA", path_length=length).issue([DOMAIN]))
    assert (accepted(judged), refusing(judged)) == (not clients, clients)


def test_an_empty_subject_needs_a_critical_san() -> None:
    for critical in (False, True):
        san = encode_extension(
            "2.5.29.17", encode_sequence(encode_general_name(2, DOMAIN)), critical
        )
        judged = judged_leaf(san=san, subject=encode_name())
        assert accepted(judged) is critical, judged.findings


@pytest.mark.parametrize("where", ["leaf", "ca"])
@pytest.mark.parametrize("unused", [1, 3, 7])
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_signature_that_counts_unused_bits_is_refused(where: str, unused: int, kind: str) -> None:
    keys = {"ecdsa": ec_key(), "rsa": rsa_key()}
    root = Authority.create("A Root", key=keys[kind])
    ca = root.intermediate("A CA", key=keys[kind])
    leaf = ca.issue([DOMAIN])
    chain = [der_of(leaf.certificate), der_of(ca.certificate)]
    at = 0 if where == "leaf" else 1
    parts = der.read_sequence(chain[at])
    bits = bytearray(chain[at])
    bits[parts[2].start] = unused
    bits[-1] &= 0xFF << unused & 0xFF
    chain[at] = bytes(bits)
    judged = report(encode_pem(*chain), leaf.key_pem, roots=TrustRoots.from_pem(root.pem))
    assert not accepted(judged)


@pytest.mark.parametrize("where", ["leaf", "ca"])
@pytest.mark.parametrize(
    ("form", "clients"),
    [("compressed", {"Firefox", "Go"}), ("hybrid", {"Firefox", "Chrome", "Go"})],
)
def test_a_point_that_is_not_written_plainly_is_refused(
    form: str, where: str, clients: set[str]
) -> None:
    ca = ROOT.intermediate("CA")
    leaf = ca.issue([DOMAIN])
    chain = [der_of(leaf.certificate), der_of(ca.certificate)]
    key, signer = (leaf.key, ca.key) if where == "leaf" else (ca.key, ROOT.key)
    at = 0 if where == "leaf" else 1
    chain[at] = alter_certificate(leaf.chain[at], signer, public_key=point(key, form))
    judged = report(encode_pem(*chain), leaf.key_pem)
    assert (accepted(judged), refusing(judged)) == (False, clients)
    assert judged.findings[0].block == at


def point(key: ec.EllipticCurvePrivateKey, form: str) -> bytes:
    public = key.public_key()
    encoded = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    if form == "hybrid":
        plain = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        encoded = bytes([6 + (plain[-1] & 1)]) + plain[1:]
    algorithm = encode_sequence(encode_oid("1.2.840.10045.2.1"), encode_oid("1.2.840.10045.3.1.7"))
    return encode_sequence(algorithm, encode_tlv(3, b"\0" + encoded))


@pytest.mark.parametrize(
    "odd",
    [
        encode_alternative_names(
            encode_general_name(2, DOMAIN), encode_tlv(0xA5, encode_tlv(0x80, b"x"))
        ),
        encode_extension("2.5.29.31", b"junk"),
        encode_extension("2.5.29.15", b"\x03\x02\x07\x00"),
    ],
    ids=["a general name", "revocation lists", "a key usage without bits"],
)
def test_an_extension_with_which_openssl_does_not_serve_is_refused(odd: bytes) -> None:
    judged = judged_leaf(odd, san=b"" if b"\x55\x1d\x11" in odd else SAN)
    assert Code.CERTIFICATE_UNLOADABLE in codes(judged)
    # What was refused leaves nothing behind for the next of the same name.
    assert accepted(judged_leaf())


# Names


@pytest.mark.parametrize(
    ("tag", "value", "clients"),
    [
        (PRINTABLE, b"Sons & Co", {"Chrome"}),
        (PRINTABLE, b"*.example.com", set()),
        (PRINTABLE, b"a_b", {"Chrome", "Go"}),
        (PRINTABLE, b"a@b", {"Chrome", "Go"}),
        (IA5, b"caf\xe9", {"Chrome", "Go"}),
        (T61, b"caf\xe9", set()),
        (BMP, b"\xd8\x00\x00a", {"Chrome", "Go"}),
    ],
)
def test_a_string_is_judged_as_clients_read_it(tag: int, value: bytes, clients: set[str]) -> None:
    judged = judged_leaf(subject=encode_name((COMMON_NAME, tag, value)))
    assert refusing(judged) == clients, judged.findings
    assert accepted(judged) is (len(clients) < 2)
    if len(clients) == 1:
        assert [found.severity for found in judged.findings] == [Severity.WARNING]


@pytest.mark.parametrize("where", ["leaf", "ca"])
@pytest.mark.parametrize(
    ("tag", "value"),
    [(0x1A, b"x"), (0x04, b"x"), (0x17, b"260101000000Z"), (0x18, b"20260101000000Z")],
)
def test_a_name_that_openssl_cannot_load_is_refused(tag: int, value: bytes, where: str) -> None:
    odd = encode_name((COMMON_NAME, UTF8, "CA"), ("2.5.4.11", tag, value))
    if where == "leaf":
        judged = judged_leaf(subject=odd)
    else:
        ca = ROOT.intermediate("CA")
        leaf = alter_certificate(ca.issue([DOMAIN], key=KEY).certificate, ca.key, issuer=odd)
        chain = encode_pem(leaf, alter_certificate(ca.certificate, ROOT.key, subject=odd))
        judged = report(chain, Leaf(BARE, KEY).key_pem)
    assert Code.CERTIFICATE_UNLOADABLE in codes(judged)
    assert not accepted(judged)


@pytest.mark.parametrize(
    ("san", "clients"),
    [
        (DOMAIN, set()),
        ("under_score.example.com", set()),
        ("*.example.com", set()),
        ("a..example.com", {"Firefox", "Go"}),
        ("a.example.com.", {"Firefox", "Go"}),
        ("a b.example.com", {"Firefox", "Go"}),
        ("-a.example.com", {"Firefox"}),
        ("w*.example.com", {"Firefox"}),
    ],
)
def test_a_name_that_is_no_host_name_counts_below_dns_constraints(
    san: str, clients: set[str]
) -> None:
    held = x509.NameConstraints([x509.DNSName("example.com")], None)
    for extensions, expected in (([(held, True)], clients), ([], set())):
        ca = ROOT.intermediate("CA", extensions=extensions)
        leaf = ca.issue([DOMAIN])
        names = encode_alternative_names(
            encode_general_name(2, DOMAIN), encode_general_name(2, san)
        )
        made = ca.issue([], key=leaf.key, common_name=DOMAIN)
        odd = alter_certificate(made.certificate, ca.key, more=(names,))
        judged = report(encode_pem(odd, ca.certificate), leaf.key_pem)
        if san != "a.example.com.":  # which the constraint does not cover either
            assert accepted(judged) is (len(expected) < 2), (san, judged.findings)
        assert refusing(judged) == expected, judged.findings


@pytest.mark.parametrize(
    ("uri", "clients"),
    [("urn:example", {"Go"}), ("https://www.example.com/", set()), ("https:///x", {"Go"})],
)
def test_a_uri_without_a_host_counts_below_constraints(uri: str, clients: set[str]) -> None:
    held = x509.NameConstraints([x509.DNSName("example.com")], None)
    ca = ROOT.intermediate("CA", extensions=[(held, True)])
    made = ca.issue([], common_name=DOMAIN)
    names = encode_alternative_names(encode_general_name(2, DOMAIN), encode_general_name(6, uri))
    odd = alter_certificate(made.certificate, ca.key, more=(names,))
    judged = report(encode_pem(odd, ca.certificate), made.key_pem)
    assert (accepted(judged), refusing(judged)) == (True, clients), judged.findings


@pytest.mark.parametrize(
    ("excluded", "clients"),
    [("example.com", {"Go"}), ("mail.example.net", set()), ("b@example.com", set())],
)
def test_an_excluded_mail_host_covers_the_hosts_below_it_for_go(
    excluded: str, clients: set[str]
) -> None:
    held = x509.NameConstraints(None, [x509.RFC822Name(excluded)])
    ca = ROOT.intermediate("CA", extensions=[(held, True)])
    made = ca.issue([], common_name=DOMAIN)
    names = encode_alternative_names(
        encode_general_name(2, DOMAIN), encode_general_name(1, "a@mail.example.com")
    )
    odd = alter_certificate(made.certificate, ca.key, more=(names,))
    judged = report(encode_pem(odd, ca.certificate), made.key_pem)
    assert (accepted(judged), refusing(judged)) == (True, clients), judged.findings


def test_domains_are_read_as_go_reads_them() -> None:
    assert is_go_domain("www.example.com")
    assert not is_go_domain("www.example.com.")
    assert not is_go_domain("")
    assert is_go_domain("", is_constraint=True)
    assert is_go_domain(".example.com", is_constraint=True)
    assert not is_go_domain("a..b")
