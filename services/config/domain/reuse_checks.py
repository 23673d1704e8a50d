"""May a certificate that was judged before be served now, by this domain? Pure.

What time and place decide is asked again whenever a kept certificate is put to use: a deployment
from the library, a library entry that was replaced, a rollback. What the validator judged once
(key, chain, policies) holds for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from services.config.domain.model import Certificate, Domain
from shared.contracts.findings import Code, Finding, Severity, finding
from shared.contracts.judging import JudgedPair
from shared.contracts.names import covered

SOON: Final = timedelta(days=14)
_NAMED: Final = 20


def findings(certificate: Certificate, domain: Domain, at: datetime) -> list[Finding]:
    """Refusals and warnings, in the order of the pairs."""
    found = list(_trust(certificate, domain))
    live = sorted({name for pair in domain.live.pairs for name in pair.sans}) if domain.live else []
    for index, pair in enumerate(certificate.pairs):
        found += [one.model_copy(update={"pair": index}) for one in _pair(pair, domain.name, at)]
        found += [one.model_copy(update={"pair": index}) for one in _lost(pair, live, domain.name)]
    return found


def refuses(found: list[Finding]) -> bool:
    return any(one.severity is Severity.REFUSAL for one in found)


def _trust(certificate: Certificate, domain: Domain) -> Iterator[Finding]:
    if certificate.trust != domain.trust:
        message = (
            f"The certificate was judged by {certificate.trust} roots, the domain's "
            f"trust is {domain.trust}."
        )
        hint = f"Store it again with {domain.trust} trust, or change the domain's trust."
        yield finding(Code.CHAIN_UNTRUSTED, message, field="certificate", hint=hint)


def _lost(pair: JudgedPair, live: Sequence[str], domain: str) -> Iterator[Finding]:
    """D12: names that the live certificate covers and this one does not. The domain's own loss is a
    refusal already."""
    lost = [name for name in live if name != domain and not covered(pair.sans, name)]
    if lost:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        names = ", ".join(lost[:_NAMED])
        message = f"The live certificate covers, and this one does not: {names}{more}."[:4000]
        yield finding(Code.CERTIFICATE_NAMES_LOST, message, field="certificate")


def _pair(pair: JudgedPair, domain: str, at: datetime) -> Iterator[Finding]:
    if not covered(pair.sans, domain):
        yield finding(Code.DOMAIN_MISMATCH, field="domain", domain=domain)
    if at < pair.not_before:
        yield finding(Code.CERTIFICATE_NOT_YET_VALID, field="certificate")
    elif at >= pair.not_after:
        yield finding(Code.CERTIFICATE_EXPIRED, field="certificate")
    elif pair.chain_until is not None and at >= pair.chain_until:
        yield finding(Code.CHAIN_EXPIRED, field="certificate")
    elif pair.not_after - at < SOON:
        yield finding(Code.CERTIFICATE_EXPIRES_SOON, field="certificate")
