"""What may be seen of a domain (rule C2): everything but a key, for which no field exists (rule C1). Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal

from services.config import names
from services.config.state import Domain
from shared.contracts.domains import CertificateView, DomainView
from shared.contracts.judging import JudgedPair

SOON: Final = timedelta(days=30)


def domain_view(domain: Domain, live_revision: int | None, at: datetime) -> DomainView:
    """``at``: for the days left and the status of its certificates."""
    pairs = domain.live.pairs if domain.live else ()
    return DomainView(
        domain=domain.name, account=domain.account, service_type=domain.service_type, origin=domain.origin,
        state=domain.state, settings=domain.settings,
        certificates=[_certificate(pair, domain.name, at) for pair in pairs],
        revision=domain.revision, live_revision=live_revision,
        pending_submission=domain.pending.cause.command_id if domain.pending else None,
        registered_at=domain.registered_at,
    )


def _certificate(pair: JudgedPair, domain: str, at: datetime) -> CertificateView:
    return CertificateView(
        source="custom", name=None, subject=pair.subject, sans=pair.sans, issuer=pair.issuer, key_type=pair.key_type,
        key_bits=pair.key_bits, not_before=pair.not_before, not_after=pair.not_after,
        days_left=max(0, (pair.not_after - at).days), fingerprint=pair.leaf_fingerprint, chain=pair.chain,
        status=status(pair, domain, at),
    )


def status(pair: JudgedPair, domain: str, at: datetime) -> Literal["ok", "expires_soon", "expired", "mismatch"]:
    """The gravest that holds."""
    if at >= pair.not_after:
        return "expired"
    if not any(names.covers(name, domain) for name in pair.sans):
        return "mismatch"
    return "expires_soon" if pair.not_after - at <= SOON else "ok"
