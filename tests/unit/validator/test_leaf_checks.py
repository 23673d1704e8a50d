"""Rules D7, D8, D10 and D12: the leaf's period, names, use, and what it replaces."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.validator.checks import names
from shared.contracts.findings import Code, Severity
from tests.support.pki import key_usage, pem, pkcs8, rsa_key
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

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
NETSCAPE_TYPE = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
PROXY = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
START, END = LEAF.certificate.not_valid_before_utc, LEAF.certificate.not_valid_after_utc


@pytest.mark.parametrize(
    ("case", "at", "expected"),
    [
        ("a second before its first", START - SECOND, Code.CERTIFICATE_NOT_YET_VALID),
        ("in its first second", START, None),
        ("14 days before its end", END - 14 * DAY, None),
        (
            "a second less than 14 days before its end",
            END - 14 * DAY + SECOND,
            Code.CERTIFICATE_EXPIRES_SOON,
        ),
        ("in its last second", END, Code.CERTIFICATE_EXPIRES_SOON),
        ("a second after its last", END + SECOND, Code.CERTIFICATE_EXPIRED),
        ("years after", END + 1000 * DAY, Code.CERTIFICATE_EXPIRED),
    ],
)
def test_a_leaf_is_valid_from_its_first_second_to_its_last(
    case: str, at: datetime, expected: Code | None
) -> None:
    judged = report(at=at)
    assert codes(judged) == ([expected] if expected else []), case
    assert accepted(judged) == (expected in (None, Code.CERTIFICATE_EXPIRES_SOON))


@pytest.mark.parametrize(
    ("issued", "days"),
    [
        ("2020-08-31", 825),
        ("2020-09-01", 398),
        ("2026-03-14", 398),
        ("2026-03-15", 200),
        ("2027-03-14", 200),
        ("2027-03-15", 100),
        ("2029-03-14", 100),
        ("2029-03-15", 47),
    ],
)
def test_a_lifetime_over_the_limit_of_its_day_of_issue_gets_a_warning(
    issued: str, days: int
) -> None:
    start = datetime.fromisoformat(issued).replace(tzinfo=UTC)
    for length, expected in (
        (days * DAY, []),
        (days * DAY + SECOND, [Code.CERTIFICATE_LIFETIME_LONG]),
    ):
        judged = report_of(
            ISSUING.issue([DOMAIN], not_before=start, not_after=start + length), at=start + DAY
        )
        assert (codes(judged), accepted(judged)) == (expected, True)


def test_a_lifetime_one_second_too_long_is_reported_with_its_second() -> None:
    start = datetime(2026, 3, 15, tzinfo=UTC)
    made = ISSUING.issue([DOMAIN], not_before=start, not_after=start + 200 * DAY + SECOND)
    assert (
        "is valid for 200 days and 1 seconds; the limit of its day of issue is 200."
        in report_of(made, at=start + DAY).findings[0].message
    )


COVERED = [
    ("the name itself", ["www.example.com"], "www.example.com", True),
    ("upper case in the certificate", ["WWW.Example.COM"], "www.example.com", True),
    ("a wildcard for one label", ["*.example.com"], "www.example.com", True),
    ("a wildcard does not cover two labels", ["*.example.com"], "a.b.example.com", False),
    ("a wildcard does not cover its parent", ["*.example.com"], "example.com", False),
    ("a wildcard domain needs the wildcard", ["*.example.com"], "*.example.com", True),
    ("names do not add up to a wildcard", ["www.example.com"], "*.example.com", False),
    ("a wildcard above covers no wildcard", ["*.com.example"], "*.www.com.example", False),
    ("part of a label is no wildcard", ["w*.example.com"], "www.example.com", False),
    ("a wildcard inside is none", ["www.*.com"], "www.example.com", False),
    ("a wildcard of a whole zone", ["*.com"], "example.com", False),
    ("one of several", ["a.example.com", "www.example.com"], "www.example.com", True),
    ("a name that ends the same", ["example.com"], "www.example.com", False),
]


@pytest.mark.parametrize(
    ("case", "sans", "domain", "covered"), COVERED, ids=[case for case, *_ in COVERED]
)
def test_a_domain_needs_its_own_name_or_a_wildcard_for_its_first_label(
    case: str, sans: list[str], domain: str, covered: bool
) -> None:
    judged = report_of(ISSUING.issue(sans), domains=[domain])
    assert refusals(judged) == ([] if covered else [Code.DOMAIN_MISMATCH]), case


def test_the_common_name_does_not_count() -> None:
    judged = report_of(ISSUING.issue([], common_name=DOMAIN))
    assert refusals(judged) == [Code.DOMAIN_MISMATCH]
    assert "no DNS name" in judged.findings[0].message


def test_an_address_is_no_name() -> None:
    san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("192.0.2.1"))])
    assert refusals(report_of(ISSUING.issue([], extensions=[(san, False)]))) == [
        Code.DOMAIN_MISMATCH
    ]


def test_each_domain_is_judged_for_itself() -> None:
    judged = report(domains=[DOMAIN, "other.example.com"])
    assert judged.accepted == {DOMAIN: True, "other.example.com": False}
    assert [(f.code, f.domain) for f in judged.findings] == [
        (Code.DOMAIN_MISMATCH, "other.example.com")
    ]
    assert len(judged.pairs) == 1


def test_a_mismatch_lists_the_names_but_not_a_thousand() -> None:
    judged = report_of(ISSUING.issue([f"h{n}.example.org" for n in range(500)]))
    assert "h0.example.org" in judged.findings[0].message
    assert "and 470 more" in judged.findings[0].message


@pytest.mark.parametrize(
    ("case", "how", "said"),
    [
        ("another extended key usage", {"eku": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "serverAuth"),
        (
            "any extended key usage alone",
            {"eku": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
            "serverAuth",
        ),
        (
            "a key usage without signatures",
            {"key_usage": key_usage("key_encipherment")},
            "digitalSignature",
        ),
        (
            "a critical extension that nobody knows",
            {"extensions": [(UNKNOWN, True)]},
            "1.3.6.1.4.1.99999.1",
        ),
        ("a pre-certificate", {"extensions": [(x509.PrecertPoison(), True)]}, "critical"),
    ],
)
def test_a_leaf_that_no_server_can_use_is_refused(
    case: str, how: dict[str, Any], said: str
) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], **how))
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER], case
    assert said in judged.findings[0].message


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("no extended key usage", {"eku": None}),
        (
            "server and client",
            {"eku": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]},
        ),
        ("no key usage", {"key_usage": None}),
        ("no basic constraints", {"basic_constraints": False}),
        ("an unknown extension that is not critical", {"extensions": [(UNKNOWN, False)]}),
    ],
)
def test_a_leaf_that_a_server_can_use_is_accepted(case: str, how: dict[str, Any]) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], **how))
    assert (codes(judged), accepted(judged)) == ([], True), case


def test_an_rsa_leaf_may_also_have_key_encipherment() -> None:
    usage = key_usage("digital_signature", "key_encipherment")
    assert accepted(report_of(ISSUING.issue([DOMAIN], key=rsa_key(), key_usage=usage)))


def test_a_ca_certificate_is_refused_as_a_leaf() -> None:
    san = (x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), False)
    ca = ROOT.intermediate(
        "A CA", extensions=[san], key_usage=key_usage("digital_signature", "key_cert_sign")
    )
    judged = report(pem(ca.certificate), pkcs8(ca.key))
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER]


def test_must_staple_gets_a_warning() -> None:
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    judged = report_of(ISSUING.issue([DOMAIN], extensions=[(staple, False)]))
    assert [(f.code, f.severity) for f in judged.findings] == [
        (Code.CERTIFICATE_MUST_STAPLE, Severity.WARNING)
    ]


def test_names_that_would_be_lost_are_listed_in_a_warning() -> None:
    judged = report(live_names=[DOMAIN, "old.example.com", "*.example.org"])
    assert (codes(judged), accepted(judged)) == ([Code.CERTIFICATE_NAMES_LOST], True)
    assert "old.example.com, *.example.org" in judged.findings[0].message
    assert DOMAIN not in judged.findings[0].message


def test_losing_the_domain_itself_is_refused() -> None:
    judged = report(domains=["old.example.com"], live_names=["old.example.com"])
    assert refusals(judged) == [Code.DOMAIN_MISMATCH]


def test_names_that_a_wildcard_still_covers_are_not_lost() -> None:
    assert (
        codes(report_of(ISSUING.issue([DOMAIN, "*.example.org"]), live_names=["a.example.org"]))
        == []
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("WWW.Example.COM", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
    ],
)
def test_a_domain_is_converted_to_a_labels_before_it_is_judged(given: str, name: str) -> None:
    judged = report_of(ISSUING.issue([name]), domains=[given])
    assert (judged.accepted, codes(judged)) == ({name: True}, [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "position 1"),
        ("a..b", "position 3"),
        ("www.example.com.", "position 17"),
        ("a b.example.com", "position 2"),
        ("w*.example.com", "position 2"),
        ("a_b.example.com", "position 2"),
        ("localhost", "two labels"),
        ("*.com", "needed under *"),
        ("192.0.2.1", "an address"),
        ("ab--c.example.com", "position 3"),
        ("x" * 64 + ".com", "position 64"),
        ("é" * 100_000, "100000 characters"),
        ("a." * 500_000, "1000000 characters"),
    ],
)
def test_an_invalid_domain_is_refused_with_the_position_of_its_fault_alone(
    given: str, said: str
) -> None:
    judged = report(domains=[given])
    assert (judged.accepted, refusals(judged)) == ({given[:253]: False}, [Code.DOMAIN_INVALID])
    assert said in judged.findings[0].message
    assert judged.pairs == ()


def test_an_invalid_domain_does_not_affect_the_others_and_a_repeated_one_counts_once() -> None:
    judged = report(domains=["a..b", DOMAIN, "WWW.example.com"])
    assert judged.accepted == {DOMAIN: True, "a..b": False}
    assert [(f.code, f.domain) for f in judged.findings] == [(Code.DOMAIN_INVALID, "a..b")]


@pytest.mark.parametrize(
    ("case", "extension", "said"),
    [
        (
            "a Netscape type for clients only",
            x509.UnrecognizedExtension(NETSCAPE_TYPE, b"\x03\x02\x07\x80"),
            "Netscape",
        ),
        (
            "a proxy certificate",
            x509.UnrecognizedExtension(
                PROXY, b"\x30\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x15\x01"
            ),
            "proxy",
        ),
    ],
)
def test_old_extensions_that_openssl_obeys_make_a_leaf_unusable(
    case: str, extension: x509.UnrecognizedExtension, said: str
) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], extensions=[(extension, False)]))
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER], case
    assert said in judged.findings[0].message


def test_a_netscape_type_for_servers_is_accepted() -> None:
    extension = x509.UnrecognizedExtension(NETSCAPE_TYPE, b"\x03\x02\x06\x40")
    assert codes(report_of(ISSUING.issue([DOMAIN], extensions=[(extension, False)]))) == []


@pytest.mark.parametrize(
    ("case", "extension"),
    [
        (
            "authority information access",
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(
                        x509.oid.AuthorityInformationAccessOID.OCSP,
                        x509.UniformResourceIdentifier("http://ocsp.example.com"),
                    )
                ]
            ),
        ),
        ("must-staple", x509.TLSFeature([x509.TLSFeatureType.status_request])),
    ],
)
def test_an_extension_that_openssl_does_not_handle_may_not_be_critical(
    case: str, extension: x509.ExtensionType
) -> None:
    assert refusals(report_of(ISSUING.issue([DOMAIN], extensions=[(extension, True)]))) == [
        Code.CERTIFICATE_NOT_A_SERVER
    ], case


def test_critical_policies_cause_no_finding() -> None:
    policies = x509.CertificatePolicies(
        [x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)]
    )
    assert codes(report_of(ISSUING.issue([DOMAIN], extensions=[(policies, True)]))) == []


@pytest.mark.parametrize(("days", "expected"), [(13, [Code.CERTIFICATE_EXPIRES_SOON]), (14, [])])
def test_thirteen_days_left_get_a_warning_and_fourteen_do_not(
    days: int, expected: list[Code]
) -> None:
    assert codes(report(at=END - days * DAY)) == expected


def test_a_wildcard_does_not_cover_a_name_with_an_underscore() -> None:
    assert names.find_lost_names(
        ["a_b.example.com", "a_b.example.org"], {"*.example.com", "a_b.example.org"}
    ) == ["a_b.example.com"]
