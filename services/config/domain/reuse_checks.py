"""May a certificate that was judged before be served now, by this domain? Pure.

What time and domain decide is checked again whenever a kept certificate is put to use: a deployment
from the library, a library entry that was replaced, a rollback. What the validator judged once
(key, chain, policies) holds for good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from services.config.domain.model import Certificate, Domain
from shared.contracts.findings import Code, Finding, Severity, finding
from shared.contracts.judging import JudgedPair
from shared.contracts.names import covered

WARN_BEFORE_EXPIRY: Final = timedelta(days=14)
_LISTED_NAMES: Final = 20
_MESSAGE_CHARACTERS: Final = 4000


def find_faults(certificate: Certificate, domain: Domain, at: datetime) -> list[Finding]:
    """Return refusals and warnings, in the order of the pairs."""
    faults = []
    if certificate.trust != domain.trust:
        faults.append(_wrong_trust(certificate, domain))
    live_names: set[str] = set()
    for pair in domain.live.pairs if domain.live else ():
        live_names.update(pair.sans)
    for index, pair in enumerate(certificate.pairs):
        found = _check_pair(pair, domain.name, at)
        found += _check_lost_names(pair, sorted(live_names), domain.name)
        faults += [fault.model_copy(update={"pair": index}) for fault in found]
    return faults


def contains_refusal(findings: Sequence[Finding]) -> bool:
    """Return whether one of the findings refuses; the others warn."""
    return any(found.severity is Severity.REFUSAL for found in findings)


def _wrong_trust(certificate: Certificate, domain: Domain) -> Finding:
    message = (
        f"The certificate was judged by {certificate.trust} roots, the domain's "
        f"trust is {domain.trust}."
    )
    hint = f"Store it again with {domain.trust} trust, or change the domain's trust."
    return finding(Code.CHAIN_UNTRUSTED, message, field="certificate", hint=hint)


def _check_lost_names(pair: JudgedPair, live_names: Sequence[str], domain: str) -> list[Finding]:
    """Warn of names that the live certificate covers and this one does not (rule D12). The loss of
    the domain's own name is a refusal already."""
    lost = []
    for name in live_names:
        if name != domain and not covered(pair.sans, name):
            lost.append(name)
    if not lost:
        return []
    names = ", ".join(lost[:_LISTED_NAMES])
    if len(lost) > _LISTED_NAMES:
        names += f" and {len(lost) - _LISTED_NAMES} more"
    message = f"The live certificate covers, and this one does not: {names}."
    return [
        finding(Code.CERTIFICATE_NAMES_LOST, message[:_MESSAGE_CHARACTERS], field="certificate")
    ]


def _check_pair(pair: JudgedPair, domain: str, at: datetime) -> list[Finding]:
    findings = []
    if not covered(pair.sans, domain):
        findings.append(finding(Code.DOMAIN_MISMATCH, field="domain", domain=domain))
    if at < pair.not_before:
        findings.append(finding(Code.CERTIFICATE_NOT_YET_VALID, field="certificate"))
    elif at >= pair.not_after:
        findings.append(finding(Code.CERTIFICATE_EXPIRED, field="certificate"))
    elif pair.chain_until is not None and at >= pair.chain_until:
        findings.append(finding(Code.CHAIN_EXPIRED, field="certificate"))
    elif pair.not_after - at < WARN_BEFORE_EXPIRY:
        findings.append(finding(Code.CERTIFICATE_EXPIRES_SOON, field="certificate"))
    return findings
