"""Each code that a pair can get, in normal and strict mode, with its message in
docs/findings.md."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12
from cryptography.x509 import TLSFeature, TLSFeatureType
from cryptography.x509.oid import ExtendedKeyUsageOID

import services.validator
from services.validator.checks.judge import JudgementReport, PairTexts, judge_pairs
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Severity, finding
from tests.support.pki import NOW, Authority, ec_key, encrypted_pkcs8, pem, pkcs8, rsa_key
from tests.support.unusual_certificates import (
    COMMON_NAME,
    PRINTABLE,
    alter_certificate,
    encode_name,
    encode_pem,
)
from tests.unit.validator.sound_pair import DOMAIN, ISSUING, LEAF, ROOT, ROOTS, report
from tests.unit.validator.test_certificate_keys import plain
from tests.unit.validator.test_chains import OTHER, cross_signed, with_changed_signature
from tests.unit.validator.test_upload_fields import P7_PEM

DAY = timedelta(days=1)
CRL = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
NONSENSE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PUBLIC = TrustRoots(ROOTS.certificates, public=ROOTS.certificates)
END = LEAF.certificate.not_valid_after_utc


def leaf_of(
    key: Any = None, names: tuple[str, ...] = (DOMAIN,), **how: Any
) -> Callable[[], JudgementReport]:
    def judged(**mode: Any) -> JudgementReport:
        made = ISSUING.issue(names, key=key, **how)
        return report(made.chain_pem, made.key_pem, **mode)

    return judged


def texts(
    certificate: str = LEAF.chain_pem, key: str = LEAF.key_pem, **how: Any
) -> Callable[[], JudgementReport]:
    return lambda **mode: report(certificate, key, **{**how, **mode})


def of_lines_of_76(text: str) -> str:
    first, end, others = text.partition("-----END CERTIFICATE-----\n")
    head, *body = first.strip().splitlines()
    packed = "".join(body)
    lines = [packed[at : at + 76] for at in range(0, len(packed), 76)]
    return "\n".join([head, *lines, end]) + others


def below_an_expired_ca(**mode: Any) -> JudgementReport:
    made = ROOT.intermediate("Variant CA", not_after=NOW - DAY).issue([DOMAIN])
    return report(made.chain_pem, made.key_pem, **mode)


def below_a_short_ca(**mode: Any) -> JudgementReport:
    made = ROOT.intermediate("Test Issuing CA", not_after=NOW + DAY).issue([DOMAIN])
    return report(made.chain_pem, made.key_pem, **mode)


def with_altered_key(public_key: Callable[[Any], bytes], **mode: Any) -> JudgementReport:
    made = ISSUING.issue([DOMAIN], key=rsa_key())
    odd = alter_certificate(made.certificate, ISSUING.key, public_key=public_key(made))
    return report(encode_pem(odd, *made.issuers), made.key_pem, **mode)


def with_an_ampersand(**mode: Any) -> JudgementReport:
    made = ISSUING.issue([DOMAIN])
    subject = encode_name((COMMON_NAME, PRINTABLE, "Test & Issuing CA"))
    odd = alter_certificate(made.certificate, ISSUING.key, subject=subject)
    return report(encode_pem(odd, *made.issuers), made.key_pem, **mode)


def with_a_visible_string(**mode: Any) -> JudgementReport:
    subject = encode_name((COMMON_NAME, 0x1A, "www.example.com"))
    odd = alter_certificate(LEAF.certificate, ISSUING.key, subject=subject)
    return report(encode_pem(odd, *LEAF.issuers), LEAF.key_pem, **mode)


def below_another_root(**mode: Any) -> JudgementReport:
    made = Authority(OTHER.certificate, OTHER.key, OTHER.issuers).issue([DOMAIN])
    return report(made.chain_pem, made.key_pem, **mode)


def two_pairs(first: Any, second: Any, more: tuple[str, ...] = ()) -> Callable[[], JudgementReport]:
    def judged(**mode: Any) -> JudgementReport:
        made = [ISSUING.issue([DOMAIN, *more], key=first), ISSUING.issue([DOMAIN], key=second)]
        pairs = [PairTexts(one.chain_pem, one.key_pem) for one in made]
        return judge_pairs(pairs, [DOMAIN], at=NOW, roots=ROOTS, **mode)

    return judged


def unopened(**mode: Any) -> JudgementReport:
    return judge_pairs(
        [PairTexts(LEAF.chain_pem, None)],
        [DOMAIN],
        at=NOW,
        roots=ROOTS,
        before=[finding(Code.KEY_UNOPENABLE, field="private_key")],
        **mode,
    )


def in_pkcs12() -> str:
    return base64.encodebytes(
        pkcs12.serialize_key_and_certificates(
            b"x", LEAF.key, LEAF.certificate, None, NoEncryption()
        )
    ).decode()


@dataclass(frozen=True)
class Case:
    sentence: str
    judged: Callable[..., JudgementReport]
    codes: tuple[Code, ...]
    """All codes that are found, the one in question first."""


C = Code
CASES = [
    Case("an empty certificate field", texts(""), (C.CERTIFICATE_MISSING,)),
    Case("a PKCS#7 bundle", texts(P7_PEM), (C.CERTIFICATE_NOT_PEM,)),
    Case(
        "a second block that is no certificate",
        texts(pem(LEAF.certificate) + NONSENSE),
        (C.CERTIFICATE_MALFORMED,),
    ),
    Case(
        "1,001 names",
        leaf_of(names=(DOMAIN, *(f"h{n}.example.com" for n in range(1000)))),
        (C.CERTIFICATE_TOO_LARGE,),
    ),
    Case(
        "the key pasted after the chain",
        texts(LEAF.chain_pem + LEAF.key_pem),
        (C.CERTIFICATE_CONTAINS_KEY,),
    ),
    Case("a CRL after the chain", texts(LEAF.chain_pem + CRL), (C.CERTIFICATE_UNEXPECTED_BLOCK,)),
    Case("lines of 76", texts(of_lines_of_76(LEAF.chain_pem)), (C.CERTIFICATE_NORMALISED,)),
    Case("a second after its last", texts(at=END + timedelta(seconds=1)), (C.CERTIFICATE_EXPIRED,)),
    Case(
        "a second before its first",
        texts(at=LEAF.certificate.not_valid_before_utc - timedelta(seconds=1)),
        (C.CERTIFICATE_NOT_YET_VALID,),
    ),
    Case("13 days before its end", texts(at=END - 13 * DAY), (C.CERTIFICATE_EXPIRES_SOON,)),
    Case(
        "400 days long, issued under the limit of 398",
        leaf_of(not_before=NOW - DAY, not_after=NOW + 399 * DAY),
        (C.CERTIFICATE_LIFETIME_LONG,),
    ),
    Case(
        "a publicly trusted leaf that was not logged", texts(roots=PUBLIC), (C.CERTIFICATE_NO_SCTS,)
    ),
    Case(
        "a client's certificate",
        leaf_of(eku=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        (C.CERTIFICATE_NOT_A_SERVER,),
    ),
    Case(
        "a certificate that must staple",
        leaf_of(extensions=[(TLSFeature([TLSFeatureType.status_request]), False)]),
        (C.CERTIFICATE_MUST_STAPLE,),
    ),
    Case(
        "an RSA key without NULL",
        lambda **mode: with_altered_key(lambda made: plain(made.key, b""), **mode),
        (C.CERTIFICATE_CLIENTS_REFUSE,),
    ),
    Case(
        "a PrintableString with an ampersand",
        with_an_ampersand,
        (C.CERTIFICATE_CLIENT_REFUSES,),
    ),
    Case(
        "a subject of a string type that OpenSSL does not read",
        with_a_visible_string,
        (C.CERTIFICATE_UNLOADABLE,),
    ),
    Case("an intermediate that ends before the leaf", below_a_short_ca, (C.CHAIN_ENDS_FIRST,)),
    Case(
        "silence that is not proof",
        lambda **mode: judge_pairs(
            [PairTexts(LEAF.chain_pem, None)], [DOMAIN], at=NOW, roots=ROOTS, **mode
        ),
        (C.CERTIFICATE_UNJUDGEABLE,),
    ),
    Case(
        "fewer names than the live one",
        texts(live_names=[DOMAIN, "old.example.com"]),
        (C.CERTIFICATE_NAMES_LOST,),
    ),
    Case("an empty key field", texts(key=""), (C.KEY_MISSING,)),
    Case("a key store as the key", texts(key=in_pkcs12()), (C.KEY_NOT_PEM,)),
    Case(
        "a key that is not base64",
        texts(key="-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n"),
        (C.KEY_MALFORMED,),
    ),
    Case(
        "a key field of 16 KiB and a byte",
        texts(key=LEAF.key_pem + "x" * (16 * 1024 + 1 - len(LEAF.key_pem))),
        (C.KEY_TOO_LARGE,),
    ),
    Case("two keys", texts(key=LEAF.key_pem + pkcs8(ec_key())), (C.KEY_SEVERAL,)),
    Case("a key with CRLF", texts(key=LEAF.key_pem.replace("\n", "\r\n")), (C.KEY_NORMALISED,)),
    Case("a key with a password", texts(key=encrypted_pkcs8(LEAF.key)), (C.KEY_ENCRYPTED,)),
    Case("RSA of 1024 bits", leaf_of(rsa_key(1024)), (C.KEY_UNSUPPORTED,)),
    Case("a public exponent of 3", leaf_of(rsa.generate_private_key(3, 2048)), (C.KEY_WEAK,)),
    Case("another's key", texts(key=pkcs8(ec_key())), (C.KEY_MISMATCH,)),
    Case("two ECDSA pairs", two_pairs(None, None), (C.PAIR_SAME_KIND,)),
    Case(
        "an RSA certificate with a name more than the ECDSA one",
        two_pairs(rsa_key(), None, ("other.example.com",)),
        (C.PAIR_NAMES_DIFFER,),
    ),
    Case("a key sealed for another", unopened, (C.KEY_UNOPENABLE,)),
    Case("another domain", texts(domains=["other.example.com"]), (C.DOMAIN_MISMATCH,)),
    Case("another root", below_another_root, (C.CHAIN_UNTRUSTED,)),
    Case("the leaf alone", texts(pem(LEAF.certificate)), (C.CHAIN_INCOMPLETE,)),
    Case("a stranger after the chain", texts(LEAF.chain_pem + OTHER.pem), (C.CHAIN_UNRELATED,)),
    Case("issuer before leaf", texts(pem(reversed(LEAF.chain))), (C.CHAIN_WRONG_ORDER,)),
    Case("a changed signature", texts(with_changed_signature(LEAF)), (C.CHAIN_BAD_SIGNATURE,)),
    Case("an expired intermediate", below_an_expired_ca, (C.CHAIN_EXPIRED,)),
    Case(
        "a cross-signature that has expired and is not needed",
        texts(LEAF.chain_pem + pem(cross_signed(not_after=NOW - DAY))),
        (C.CHAIN_SPARE_EXPIRED,),
    ),
    Case("the root after the chain", texts(LEAF.chain_pem + ROOT.pem), (C.CHAIN_ROOT_INCLUDED,)),
]
ELSEWHERE = {Code.DOMAIN_INVALID, Code.REQUEST_MALFORMED, Code.REPORT_SHORTENED}
"""Codes of the request and of the whole report; they have tests of their own."""


@pytest.mark.parametrize("strict", [False, True], ids=["normal", "strict"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_each_fault_is_found_with_its_severity_and_nothing_else_is(
    case: Case, strict: bool
) -> None:
    judged = case.judged(strict=strict)
    code = case.codes[0]
    assert [f.code for f in judged.findings if f.code in case.codes] == list(case.codes)
    assert {f.code for f in judged.findings} == set(case.codes)
    found = judged.findings[0]
    refused = code.severity is Severity.REFUSAL or (strict and code.severity is Severity.NOTICE)
    assert found.severity is (Severity.REFUSAL if refused else code.severity)
    assert all(judged.accepted.values()) is not refused
    assert bool(judged.pairs) is not refused
    assert found.hint


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_the_example_in_the_documentation_is_the_message(case: Case) -> None:
    assert _shape(case.judged().findings[0].message) == _shape(case.codes[0].example)


def test_every_code_that_the_validator_knows_has_a_case() -> None:
    sources = Path(services.validator.__file__).parent.rglob("*.py")
    used = {
        name for source in sources for name in re.findall(r"\bCode\.([A-Z_]+)", source.read_text())
    }
    assert {case.codes[0] for case in CASES} == {Code[name] for name in used} - ELSEWHERE


def _shape(message: str) -> str:
    """Replace what differs from run to run: fingerprints, identifiers and dates."""
    without = re.sub(r"SHA-256 [0-9a-f]{16}|key identifier [0-9A-F:]+", "#", message)
    return re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?", "#", without)
