"""The finding on a certificate that the library does not read names the unreadable part."""

from __future__ import annotations

import pytest

from services.validator.x509 import parse_diagnosis
from shared.contracts.findings import Code
from tests.support.pki import der, distinguished, ec_key, sign
from tests.support.unusual_certificates import (
    COMMON_NAME,
    NULL,
    T61,
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
from tests.unit.validator.sound_pair import DOMAIN, ISSUING, LEAF, codes, report

KEY = ec_key()
BARE = sign(
    distinguished(DOMAIN),
    KEY.public_key(),
    ISSUING.certificate,
    ISSUING.key,
    basic_constraints=False,
)
OTHER_ALGORITHM = encode_sequence(encode_oid("1.2.840.10045.4.3.2"), NULL)

EXTENSIONS = {
    "2.5.29.19 (basicConstraints)": [
        encode_extension("2.5.29.19", encode_sequence(encode_tlv(4, b"x")), True),
        encode_extension("2.5.29.19", b"\x30\x05", True),
    ],
    "2.5.29.15 (keyUsage)": [encode_extension("2.5.29.15", encode_integer(5), True)],
    "2.5.29.17 (subjectAltName)": [
        encode_alternative_names(encode_general_name(2, DOMAIN), encode_tlv(0xA9)),
        encode_alternative_names(encode_general_name(2, DOMAIN), encode_general_name(7, b"\1\2\3")),
        encode_alternative_names(encode_general_name(2, "m\xfcnchen.de".encode("latin-1"))),
    ],
}


@pytest.mark.parametrize(
    ("named", "odd"), [(named, odd) for named, several in EXTENSIONS.items() for odd in several]
)
def test_an_extension_is_named_by_its_oid(named: str, odd: bytes) -> None:
    leaf = alter_certificate(BARE, ISSUING.key, more=(odd,))
    assert (
        parse_diagnosis.diagnose_unreadable(leaf)
        == f"it is an X.509 certificate, but its extension {named} cannot be read"
    )
    judged = report(encode_pem(leaf, *LEAF.issuers), LEAF.key_pem)
    assert codes(judged) == [Code.CERTIFICATE_MALFORMED]
    assert (judged.findings[0].block, named in judged.findings[0].message) == (0, True)
    assert "reissued" in judged.findings[0].hint


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("its subject", {"subject": encode_name((COMMON_NAME, T61, b"www\xe9"))}),
        ("its issuer", {"issuer": encode_name((COMMON_NAME, T61, b"www\xe9"))}),
        (
            "its period of validity",
            {
                "validity": encode_sequence(
                    encode_tlv(0x17, b"2601010000Z"), encode_tlv(0x17, b"2701010000Z")
                )
            },
        ),
        (
            "the algorithm that it is signed with",
            {"signed_algorithm": OTHER_ALGORITHM, "algorithm": OTHER_ALGORITHM},
        ),
    ],
)
def test_an_unreadable_part_is_named(said: str, parts: dict[str, bytes]) -> None:
    odd = alter_certificate(BARE, ISSUING.key, **parts)
    assert (
        parse_diagnosis.diagnose_unreadable(odd)
        == f"it is an X.509 certificate, but {said} cannot be read"
    )


def test_an_extension_that_stands_twice_is_named() -> None:
    leaf = alter_certificate(
        LEAF.certificate,
        ISSUING.key,
        more=(encode_alternative_names(encode_general_name(2, DOMAIN)),),
    )
    assert (
        "the extension 2.5.29.17 (subjectAltName) more than once"
        in parse_diagnosis.diagnose_unreadable(leaf)
    )


@pytest.mark.parametrize(
    "body", [b"", b"\x30\x00", b"\x30\x03\x02\x01\x01", b"hello", der(LEAF.certificate)[1:]]
)
def test_other_bytes_are_not_called_a_certificate(body: bytes) -> None:
    assert parse_diagnosis.diagnose_unreadable(body) == parse_diagnosis.NOT_A_CERTIFICATE
