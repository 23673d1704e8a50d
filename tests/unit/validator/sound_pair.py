"""Shared by the validator's tests: one sound pair with its CA, and helpers to judge variations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.validator.checks.judge import JudgementReport, PairTexts, judge_pairs
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Severity
from tests.support.pki import NOW, Authority, Leaf

DOMAIN = "www.example.com"
ROOT = Authority.create("Test Root CA")
ISSUING = ROOT.intermediate("Test Issuing CA")
ROOTS = TrustRoots.from_pem(ROOT.pem)
LEAF = ISSUING.issue([DOMAIN])


def report(
    certificate: str = LEAF.chain_pem,
    key: str = LEAF.key_pem,
    *,
    domains: Sequence[str] = (DOMAIN,),
    at: datetime = NOW,
    roots: TrustRoots = ROOTS,
    strict: bool = False,
    live_names: Sequence[str] = (),
) -> JudgementReport:
    return judge_pairs(
        [PairTexts(certificate, key)],
        domains,
        at=at,
        roots=roots,
        strict=strict,
        live_names=live_names,
    )


def report_of(leaf: Leaf, **how: object) -> JudgementReport:
    return report(leaf.chain_pem, leaf.key_pem, **how)  # type: ignore[arg-type]


def codes(judged: JudgementReport) -> list[Code]:
    return [f.code for f in judged.findings]


def refusals(judged: JudgementReport) -> list[Code]:
    return [f.code for f in judged.findings if f.severity is Severity.REFUSAL]


def accepted(judged: JudgementReport) -> bool:
    return all(judged.accepted.values()) and bool(judged.pairs)
