"""Rule D6 by the certificate as it stands: how a public key is written decides whether OpenSSL
takes it."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code
from tests.support.pki import Authority, ec_key, pem, rsa_key
from tests.support.unusual_certificates import (
    NULL,
    alter_certificate,
    compressed_point_spki,
    encode_integer,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_tlv,
    explicit_curve_spki,
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
)

EXPLICIT = "ECDSA with explicit curve parameters"


def plain(key: rsa.RSAPrivateKey, parameters: bytes) -> bytes:
    numbers = key.public_key().public_numbers()
    modulus = encode_sequence(encode_integer(numbers.n), encode_integer(numbers.e))
    return encode_sequence(
        encode_sequence(encode_oid("1.2.840.113549.1.1.1"), parameters),
        encode_tlv(3, b"\0" + modulus),
    )


def test_a_leaf_with_explicit_curve_parameters_is_refused() -> None:
    leaf = alter_certificate(
        LEAF.certificate, ISSUING.key, public_key=explicit_curve_spki(LEAF.key)
    )
    judged = report(encode_pem(leaf, *LEAF.issuers))
    assert refusals(judged) == [Code.KEY_UNSUPPORTED]
    assert EXPLICIT in judged.findings[0].message


def test_an_intermediate_with_explicit_curve_parameters_is_refused() -> None:
    judged = report(
        encode_pem(
            LEAF.certificate,
            alter_certificate(
                ISSUING.certificate, ROOT.key, public_key=explicit_curve_spki(ISSUING.key)
            ),
        )
    )
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert (EXPLICIT in judged.findings[0].message, judged.findings[0].block) == (True, 1)


def test_a_root_with_explicit_curve_parameters_is_refused() -> None:
    root = alter_certificate(ROOT.certificate, ROOT.key, public_key=explicit_curve_spki(ROOT.key))
    judged = report(roots=TrustRoots.from_pem(encode_pem(root)))
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert EXPLICIT in judged.findings[0].message


def pss(key: rsa.RSAPrivateKey) -> bytes:
    body = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return encode_sequence(
        encode_sequence(encode_oid("1.2.840.113549.1.1.10")), encode_tlv(3, b"\0" + body)
    )


def public_of(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << bits - 1) + 12345).public_key()


@pytest.mark.parametrize("where", ["intermediate", "root"])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("Ed25519", "Ed25519"),
        ("RSASSA-PSS", "RSASSA-PSS"),
        ("RSA of 8,200 bits", "RSA of 8200 bits"),
        ("a long exponent", "exponent over 64 bits"),
    ],
)
def test_an_issuer_with_an_unsupported_key_is_refused_for_the_key_and_not_for_a_signature(
    kind: str, named: str, where: str
) -> None:
    key = {"Ed25519": ed25519.Ed25519PrivateKey.generate(), "RSASSA-PSS": rsa_key()}.get(
        kind
    ) or ec_key()
    other = {
        "RSA of 8,200 bits": public_of(8200),
        "a long exponent": public_of(2048, (1 << 80) + 1),
    }.get(kind)
    if where == "root":
        below = Authority.create("Odd CA", key=key)
        ca = below.intermediate("Ordinary CA")
    else:
        below = ca = ROOT.intermediate("Odd CA", key=key)
    certificate: bytes | x509.Certificate = below.certificate
    if kind == "RSASSA-PSS":
        certificate = alter_certificate(below.certificate, ROOT.key, public_key=pss(rsa_key()))
    elif other is not None:
        spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certificate = alter_certificate(below.certificate, ROOT.key, public_key=spki)
    leaf = ca.issue([DOMAIN], identifiers=False)
    if where == "root":
        judged = report(
            leaf.chain_pem, leaf.key_pem, roots=TrustRoots.from_pem(encode_pem(certificate))
        )
    else:
        judged = report(encode_pem(leaf.certificate, certificate), leaf.key_pem)
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert (
        f"has a key that is not accepted ({kind.split(' of')[0].split('a long')[0]}"
        in judged.findings[0].message
    )
    assert named in judged.findings[0].message
    assert judged.findings[0].block == (None if where == "root" else 1)


def test_a_key_with_a_compressed_point_is_refused_as_by_firefox_and_go() -> None:
    leaf = alter_certificate(
        LEAF.certificate, ISSUING.key, public_key=compressed_point_spki(LEAF.key)
    )
    judged = report(encode_pem(leaf, *LEAF.issuers))
    assert (accepted(judged), codes(judged)) == (False, [Code.CERTIFICATE_CLIENTS_REFUSE])
    assert "Firefox and Go" in judged.findings[0].message


@pytest.mark.parametrize(
    ("parameters", "expected"), [(NULL, []), (b"", [Code.CERTIFICATE_CLIENTS_REFUSE])]
)
def test_rsa_is_accepted_with_null_parameters_only(parameters: bytes, expected: list[Code]) -> None:
    made = ISSUING.issue([DOMAIN], key=rsa_key())
    judged = report(
        encode_pem(
            alter_certificate(
                made.certificate, ISSUING.key, public_key=plain(made.key, parameters)
            ),
            *made.issuers,
        ),
        made.key_pem,
    )
    assert (accepted(judged), codes(judged)) == (not expected, expected)


@pytest.mark.parametrize("where", ["leaf", "ca"])
@pytest.mark.parametrize("kind", ["2.5.29.35", "2.5.29.14"], ids=["authority", "subject"])
def test_a_critical_key_identifier_is_refused_as_by_openssl(where: str, kind: str) -> None:
    key = ec_key()
    by_kind = {
        "2.5.29.35": x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.public_key()),
        "2.5.29.14": x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
    }
    how = {"identifiers": False, "extensions": [(by_kind[kind], True)]}
    if where == "leaf":
        made = ROOT.issue([DOMAIN], key=key, **how)  # type: ignore[arg-type]
        expected = Code.CERTIFICATE_NOT_A_SERVER
    else:
        ca = ROOT.intermediate("CA", key=key, **how)  # type: ignore[arg-type]
        made = ca.issue([DOMAIN])
        expected = Code.CHAIN_UNTRUSTED
    judged = report(pem(made.chain), made.key_pem)
    assert refusals(judged) == [expected]
    assert kind in judged.findings[0].message
