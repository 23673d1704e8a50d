"""Rules D1-D4 and D11: what the two fields may contain."""

from __future__ import annotations

import base64
import textwrap

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12

from services.validator.checks.submission import (
    MAX_BLOCKS,
    MAX_CERTIFICATE_BYTES,
    MAX_KEY_BYTES,
    MAX_SANS,
)
from shared.contracts.findings import Code, Severity
from tests.support.pki import (
    der,
    ec_key,
    encrypted_legacy,
    encrypted_pkcs8,
    pem,
    pkcs1,
    pkcs8,
    rsa_key,
    sec1,
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

CHAIN, KEY = LEAF.chain_pem, LEAF.key_pem
RSA_LEAF = ISSUING.issue([DOMAIN], key=rsa_key())
DER_LEAF = der(LEAF.certificate)
DER_KEY = LEAF.key.private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
P7_DER = pkcs7.serialize_certificates(list(LEAF.chain), serialization.Encoding.DER)
P7_PEM = pkcs7.serialize_certificates(list(LEAF.chain), serialization.Encoding.PEM).decode()
P12 = pkcs12.serialize_key_and_certificates(
    b"x", LEAF.key, LEAF.certificate, None, serialization.NoEncryption()
)


def as_text(data: bytes, how: str) -> str:
    if how == "base64":
        return base64.encodebytes(data).decode()
    return data.decode("latin-1") if how == "latin-1" else data.decode("utf-8", how)


def test_a_sound_pair_is_accepted_without_a_finding() -> None:
    judged = report()
    assert (accepted(judged), codes(judged)) == (True, [])
    assert judged.pairs[0].chain == CHAIN


NORMALISED = {
    "blank lines between the blocks": CHAIN.replace(
        "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----\n\n"
    ),
    "CRLF line ends": CHAIN.replace("\n", "\r\n"),
    "CR line ends": CHAIN.replace("\n", "\r"),
    "a byte order mark": "\ufeff" + CHAIN,
    "lines of 76": "".join(
        f"-----BEGIN CERTIFICATE-----\n{textwrap.fill(base64.b64encode(der(c)).decode(), 76)}\n"
        "-----END CERTIFICATE-----\n"
        for c in LEAF.chain
    ),
    "bodies on one line": "".join(
        f"-----BEGIN CERTIFICATE-----{base64.b64encode(der(c)).decode()}-----END CERTIFICATE-----\n"
        for c in LEAF.chain
    ),
    "line ends that became spaces": CHAIN.replace("\n", " "),
    "blocks that share a line": CHAIN.replace(
        "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----"
    ),
    "text before the blocks": "subject=/CN=www.example.com\n" + CHAIN,
    "text after the blocks": CHAIN + "that is all\n",
    "white space at the ends of lines": CHAIN.replace("\n", " \n"),
    "a blank line inside a block": CHAIN.replace(
        "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n\n"
    ),
    "an old label": CHAIN.replace("CERTIFICATE-----", "X509 CERTIFICATE-----"),
    "a certificate that stands twice": CHAIN + pem(LEAF.issuers),
}


@pytest.mark.parametrize("case", NORMALISED)
def test_repairable_text_is_normalised_with_a_notice(case: str) -> None:
    judged = report(NORMALISED[case])
    assert accepted(judged), judged.findings
    assert set(codes(judged)) == {Code.CERTIFICATE_NORMALISED}
    assert judged.pairs[0].chain == CHAIN


@pytest.mark.parametrize("case", NORMALISED)
def test_strict_mode_refuses_text_that_would_be_normalised(case: str) -> None:
    judged = report(NORMALISED[case], strict=True)
    assert not accepted(judged)
    assert set(refusals(judged)) == {Code.CERTIFICATE_NORMALISED}


def test_strict_mode_accepts_canonical_text() -> None:
    assert accepted(report(strict=True))


def test_a_missing_last_line_end_is_no_oddity() -> None:
    assert codes(report(CHAIN.rstrip("\n"), KEY.rstrip("\n"), strict=True)) == []


@pytest.mark.parametrize("how", ["base64", "latin-1", "surrogateescape", "replace"])
@pytest.mark.parametrize(
    ("data", "command"),
    [(DER_LEAF, "openssl x509"), (P7_DER, "openssl pkcs7"), (P12, "openssl pkcs12")],
    ids=["DER", "PKCS#7", "PKCS#12"],
)
def test_another_format_is_named_with_the_command_that_converts_it(
    data: bytes, command: str, how: str
) -> None:
    judged = report(as_text(data, how))
    assert codes(judged) == [Code.CERTIFICATE_NOT_PEM]
    assert command in judged.findings[0].hint


@pytest.mark.parametrize("label", ["PKCS7", "CERTIFICATE"])
def test_pkcs7_in_pem_is_recognised_whatever_its_label(label: str) -> None:
    judged = report(P7_PEM.replace("PKCS7", label))
    assert codes(judged) == [Code.CERTIFICATE_NOT_PEM]


@pytest.mark.parametrize("how", ["base64", "latin-1", "surrogateescape", "replace"])
def test_a_der_key_is_recognised_in_either_field(how: str) -> None:
    assert codes(report(key=as_text(DER_KEY, how))) == [Code.KEY_NOT_PEM]
    assert codes(report(as_text(DER_KEY, how))) == [Code.CERTIFICATE_CONTAINS_KEY]


@pytest.mark.parametrize(
    ("case", "certificate", "expected"),
    [
        ("nothing", "", Code.CERTIFICATE_MISSING),
        ("white space", " \n\t\r\n", Code.CERTIFICATE_MISSING),
        ("prose", "please find my certificate attached", Code.CERTIFICATE_MISSING),
        (
            "a damaged BEGIN line",
            CHAIN.replace("-----BEGIN", "----BEGIN", 1).replace("END CERT", "EMD CERT", 1),
            Code.CERTIFICATE_MALFORMED,
        ),
        (
            "a body that is not base64",
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            Code.CERTIFICATE_MALFORMED,
        ),
        (
            "a body that is no certificate",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            Code.CERTIFICATE_MALFORMED,
        ),
        (
            "an empty block",
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            Code.CERTIFICATE_MALFORMED,
        ),
        ("no END line", CHAIN.rsplit("-----END", 1)[0], Code.CERTIFICATE_MALFORMED),
        (
            "no BEGIN line",
            CHAIN.split("-----BEGIN CERTIFICATE-----", 1)[1],
            Code.CERTIFICATE_MALFORMED,
        ),
        (
            "an END line of another label",
            CHAIN.replace("END CERTIFICATE", "END X", 1),
            Code.CERTIFICATE_MALFORMED,
        ),
        (
            "a request",
            CHAIN
            + "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            Code.CERTIFICATE_UNEXPECTED_BLOCK,
        ),
        (
            "a CRL",
            CHAIN + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            Code.CERTIFICATE_UNEXPECTED_BLOCK,
        ),
        ("a key after the certificates", CHAIN + KEY, Code.CERTIFICATE_CONTAINS_KEY),
        ("a key before the certificates", KEY + CHAIN, Code.CERTIFICATE_CONTAINS_KEY),
        ("an unfinished key", CHAIN + KEY.split("-----END")[0], Code.CERTIFICATE_CONTAINS_KEY),
        ("an encrypted key", CHAIN + encrypted_pkcs8(LEAF.key), Code.CERTIFICATE_CONTAINS_KEY),
        (
            "a key under a certificate's label",
            KEY.replace("PRIVATE KEY", "CERTIFICATE"),
            Code.CERTIFICATE_CONTAINS_KEY,
        ),
    ],
)
def test_a_faulty_certificate_field_is_refused_with_its_code(
    case: str, certificate: str, expected: Code
) -> None:
    judged = report(certificate)
    assert refusals(judged) == [expected], case
    assert judged.pairs == ()


@pytest.mark.parametrize(
    ("case", "key", "expected"),
    [
        ("nothing", "", Code.KEY_MISSING),
        ("prose", "it is in the safe", Code.KEY_MISSING),
        ("a certificate", CHAIN, Code.CERTIFICATE_CONTAINS_KEY),
        ("two keys", KEY + pkcs8(ec_key()), Code.KEY_SEVERAL),
        (
            "a body that is not base64",
            "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n",
            Code.KEY_MALFORMED,
        ),
        (
            "a body that is no key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            Code.KEY_MALFORMED,
        ),
        ("no END line", KEY.split("-----END")[0], Code.KEY_MALFORMED),
        ("PKCS#8 with a password", encrypted_pkcs8(LEAF.key), Code.KEY_ENCRYPTED),
        ("legacy PEM encryption", encrypted_legacy(RSA_LEAF.key), Code.KEY_ENCRYPTED),
        (
            "PKCS#8 with a password under a plain label",
            encrypted_pkcs8(LEAF.key).replace("ENCRYPTED PRIVATE", "PRIVATE"),
            Code.KEY_ENCRYPTED,
        ),
        ("PKCS#12", as_text(P12, "base64"), Code.KEY_NOT_PEM),
        (
            "OpenSSH",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            Code.KEY_UNSUPPORTED,
        ),
    ],
)
def test_a_faulty_key_field_is_refused_with_its_code(case: str, key: str, expected: Code) -> None:
    judged = report(key=key)
    assert expected in refusals(judged), case
    assert set(refusals(judged)) <= {expected, Code.KEY_MISSING}


@pytest.mark.parametrize(
    ("case", "certificate", "key"),
    [
        ("PKCS#8, RSA", RSA_LEAF.chain_pem, RSA_LEAF.key_pem),
        ("PKCS#1", RSA_LEAF.chain_pem, pkcs1(RSA_LEAF.key)),
        ("PKCS#8, ECDSA", CHAIN, KEY),
        ("SEC 1", CHAIN, sec1(LEAF.key)),
        ("SEC 1 after EC PARAMETERS", CHAIN, sec1(LEAF.key, with_parameters=True)),
    ],
)
def test_every_unencrypted_form_of_a_key_is_accepted_and_stored_as_pkcs8(
    case: str, certificate: str, key: str
) -> None:
    judged = report(certificate, key, strict=True)
    assert (accepted(judged), codes(judged)) == (True, []), case
    assert judged.pairs[0].key.startswith("-----BEGIN PRIVATE KEY-----\n")


def test_a_key_under_the_wrong_label_is_normalised() -> None:
    judged = report(RSA_LEAF.chain_pem, pkcs1(RSA_LEAF.key).replace("RSA PRIVATE", "PRIVATE"))
    assert (accepted(judged), codes(judged)) == (True, [Code.KEY_NORMALISED])


def test_every_fault_is_listed_and_not_only_the_first() -> None:
    judged = report(CHAIN + KEY + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "")
    assert set(refusals(judged)) == {
        Code.CERTIFICATE_CONTAINS_KEY,
        Code.CERTIFICATE_UNEXPECTED_BLOCK,
        Code.KEY_MISSING,
    }


def padded(text: str, size: int) -> str:
    return "x" * (size - len(text) - 1) + "\n" + text


def test_the_certificate_field_may_have_64_kib_and_no_byte_more() -> None:
    assert accepted(report(padded(CHAIN, MAX_CERTIFICATE_BYTES)))
    assert codes(report(padded(CHAIN, MAX_CERTIFICATE_BYTES + 1))) == [Code.CERTIFICATE_TOO_LARGE]


def test_the_key_field_may_have_16_kib_and_no_byte_more() -> None:
    assert accepted(report(key=padded(KEY, MAX_KEY_BYTES)))
    assert codes(report(key=padded(KEY, MAX_KEY_BYTES + 1))) == [Code.KEY_TOO_LARGE]


def test_limits_count_bytes_not_characters() -> None:
    assert codes(report("é" * (MAX_CERTIFICATE_BYTES // 2 + 1))) == [Code.CERTIFICATE_TOO_LARGE]


def test_ten_blocks_are_read_and_eleven_refused() -> None:
    assert Code.CERTIFICATE_TOO_LARGE not in codes(
        report(CHAIN + pem(ROOT.certificate) * (MAX_BLOCKS - 2))
    )
    assert codes(report(CHAIN + pem(ROOT.certificate) * (MAX_BLOCKS - 1))) == [
        Code.CERTIFICATE_TOO_LARGE
    ]


def test_a_thousand_names_are_read_and_one_more_refused() -> None:
    names = [DOMAIN, *(f"h{n}.example.com" for n in range(MAX_SANS - 1))]
    assert accepted(report_of(ISSUING.issue(names)))
    assert codes(report_of(ISSUING.issue([*names, "one.more.example.com"]))) == [
        Code.CERTIFICATE_TOO_LARGE
    ]


def test_strict_mode_does_not_turn_warnings_into_refusals() -> None:
    judged = report(strict=True, live_names=["other.example.com"])
    assert [(f.code, f.severity) for f in judged.findings] == [
        (Code.CERTIFICATE_NAMES_LOST, Severity.WARNING)
    ]


def test_the_repr_of_a_report_hides_the_key() -> None:
    judged = report()
    body = "".join(KEY.split("\n")[1:2])
    assert body not in repr(judged)


def test_a_label_with_odd_spaces_is_normalised() -> None:
    judged = report(
        CHAIN.replace("CERTIFICATE-----", "CERTIFICATE -----"),
        KEY.replace("PRIVATE KEY", "PRIVATE  KEY"),
    )
    assert (accepted(judged), codes(judged)) == (
        True,
        [Code.CERTIFICATE_NORMALISED, Code.KEY_NORMALISED],
    )


@pytest.mark.parametrize(
    ("data", "command"), [(DER_LEAF, "> cert.der"), (P7_DER, "> chain.p7b"), (P12, "> pair.pfx")]
)
def test_base64_without_armour_is_to_be_decoded_first(data: bytes, command: str) -> None:
    hint = report(as_text(data, "base64")).findings[0].hint
    assert "base64 -d" in hint and command in hint
    assert "base64 -d" not in report(as_text(data, "latin-1")).findings[0].hint


def test_strict_mode_refuses_a_space_inside_a_line() -> None:
    first, body, *others = CHAIN.split("\n")
    packed = "".join([body, *others[: others.index("-----END CERTIFICATE-----")]])
    lines = [packed[:32] + " " + packed[32:63], *textwrap.wrap(packed[63:], 64)]
    text = "\n".join([first, *lines, "-----END CERTIFICATE-----\n"]) + pem(LEAF.issuers)
    assert codes(report(text)) == [Code.CERTIFICATE_NORMALISED]
    assert refusals(report(text, strict=True)) == [Code.CERTIFICATE_NORMALISED]


def test_strict_mode_refuses_padding_bits_that_are_not_zero() -> None:
    made = next(
        made
        for n in range(1000)
        if "==\n"
        in pem(
            (
                made := ISSUING.issue([DOMAIN, "x" * (n % 20 + 1) + ".example.com"], key=LEAF.key)
            ).certificate
        )
    )
    text = made.chain_pem
    at = text.index("==\n") - 1
    odd = text[:at] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[text[at]] + text[at + 1 :]
    assert codes(report(text)) == []
    assert codes(report(odd)) == [Code.CERTIFICATE_NORMALISED]
    assert refusals(report(odd, strict=True)) == [Code.CERTIFICATE_NORMALISED]


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (
            padded(CHAIN, MAX_CERTIFICATE_BYTES + 1),
            KEY,
            "The certificate field has 65,537 bytes; 65,536 are allowed.",
        ),
        (
            CHAIN + pem(ROOT.certificate) * 9,
            KEY,
            "The certificate field has 11 blocks; 10 are allowed.",
        ),
        (
            CHAIN,
            padded(KEY, MAX_KEY_BYTES + 1),
            "The key field has 16,385 bytes; 16,384 are allowed.",
        ),
        (CHAIN, KEY * 11, "The key field has 11 blocks; 10 are allowed."),
    ],
)
def test_the_message_names_the_limit_that_was_exceeded(
    certificate: str, key: str, said: str
) -> None:
    assert [f.message for f in report(certificate, key).findings] == [said]
