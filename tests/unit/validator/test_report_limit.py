"""A message can carry the report of any upload."""

from __future__ import annotations

import pytest
from cryptography import x509

from services.validator.checks.report_limit import MAX_BYTES, MAX_FINDINGS, limit_findings
from shared.contracts.findings import Code, Finding, Severity, finding
from shared.contracts.judging import CheckReport
from tests.support.pki import Extension
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

MESSAGE = 1 << 20
"""The size of a message that the broker accepts."""


def critical(count: int) -> list[Extension]:
    oids = (x509.ObjectIdentifier(f"1.2.{n // 100}.{n % 100}") for n in range(count))
    return [(x509.UnrecognizedExtension(oid, b""), True) for oid in oids]


def test_three_thousand_critical_extensions_of_a_leaf_are_one_finding() -> None:
    judged = report_of(ISSUING.issue([DOMAIN], extensions=critical(3000), organisation="B" * 60))
    assert refusals(judged) == [Code.CERTIFICATE_NOT_A_SERVER]
    assert "(1.2.0.0, 1.2.0.1, " in judged.findings[0].message
    assert "1.2.0.9 and 2990 more)" in judged.findings[0].message
    assert (
        len(CheckReport(accepted=judged.accepted, findings=list(judged.findings)).encode()) < 4000
    )


def test_three_thousand_critical_extensions_of_a_ca_are_one_finding() -> None:
    judged = report_of(ROOT.intermediate("CA", extensions=critical(3000)).issue([DOMAIN]))
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert "and 2990 more" in judged.findings[0].message


@pytest.mark.parametrize("mark", ["-----BEGIN X-----\n", "-----END X-----\n"])
def test_thousands_of_marks_are_over_the_limit_of_blocks(mark: str) -> None:
    assert codes(report(LEAF.chain_pem + mark * 3000)) == [Code.CERTIFICATE_TOO_LARGE]
    assert codes(report(key=LEAF.key_pem + mark * 500)) == [Code.KEY_TOO_LARGE]


def of_weight(code: Code, count: int, message: str = "") -> list[Finding]:
    return [finding(code, f"{message}{n}") for n in range(count)]


def test_as_many_findings_as_a_report_holds_are_all_there() -> None:
    found = of_weight(Code.CHAIN_UNRELATED, MAX_FINDINGS)
    assert limit_findings(found) == tuple(found)


def test_refusals_stay_before_notices_and_the_last_counts_the_rest() -> None:
    found = [*of_weight(Code.CERTIFICATE_NORMALISED, MAX_FINDINGS), finding(Code.CHAIN_UNRELATED)]
    kept = limit_findings(found)
    assert len(kept) == MAX_FINDINGS
    assert [f.code for f in kept[-2:]] == [Code.CHAIN_UNRELATED, Code.REPORT_SHORTENED]
    assert (kept[-1].message, kept[-1].severity) == (
        "2 more findings are not listed.",
        Severity.NOTICE,
    )


def test_findings_that_weigh_too_much_are_left_out() -> None:
    kept = limit_findings(of_weight(Code.CHAIN_UNRELATED, 150, "\x01" * 3000))
    assert sum(len(f.encode()) for f in kept) <= MAX_BYTES + 1000
    assert kept[-1].code is Code.REPORT_SHORTENED
    assert kept[0].code is Code.CHAIN_UNRELATED


def test_domains_are_refused_even_where_their_findings_are_not_listed() -> None:
    domains = [f"h{n}.example.com" for n in range(300)]
    judged = report(domains=domains)
    assert set(judged.accepted.values()) == {False} and len(judged.accepted) == 300
    assert len(judged.findings) == MAX_FINDINGS
    assert not accepted(judged)


def test_the_largest_fields_make_a_report_that_fits() -> None:
    names = [f"{'x' * 60}.{'y' * 60}.{n}.com" for n in range(300)]
    for certificate in (
        report_of(ISSUING.issue(names), domains=[f"{'z' * 60}.{n}.org" for n in range(50)]),
        report("-----BEGIN X-----\n" * 9 + "\x00" * 60_000),
        report("\x01\n" * 30_000),
    ):
        assert (
            len(
                CheckReport(
                    accepted=certificate.accepted, findings=list(certificate.findings)
                ).encode()
            )
            < MESSAGE
        )
