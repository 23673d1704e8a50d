"""What may be seen of a domain (rule C2): everything but a key, for which no field exists (rule
C1). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

from services.config.domain.library_entry import Entry
from services.config.domain.model import Certificate, Domain
from shared.contracts.accounts import Suspension
from shared.contracts.base import Contract, Hash, Utc
from shared.contracts.certificates import StoredView
from shared.contracts.domains import (
    CertificateStatus,
    CertificateView,
    DomainState,
    DomainView,
    Origin,
    Settings,
)
from shared.contracts.judging import JudgedPair
from shared.contracts.names import covered

SOON: Final = timedelta(days=30)


class Row(Protocol):
    """Columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Facts(Contract):
    """What a list shows of a pair: all but its chain, its key and the validator's word."""

    leaf_fingerprint: Hash
    subject: str
    sans: list[str]
    issuer: str
    key_type: str
    key_bits: int
    not_before: Utc
    not_after: Utc


def domain_view(
    domain: Domain, live_revision: int | None, at: datetime, suspension: Suspension | None = None
) -> DomainView:
    """``at``: for the days left and the status of its certificates."""
    return DomainView(
        domain=domain.name,
        account=domain.account,
        service_type=domain.service_type,
        origin=domain.origin,
        state=domain.state,
        settings=domain.settings,
        trust=domain.trust,
        certificates=_certificates(domain, at),
        revision=domain.revision,
        live_revision=live_revision,
        pending_submission=domain.pending.cause.command_id if domain.pending else None,
        registered_at=domain.registered_at,
        suspension=suspension,
    )


def listed_view(
    row: Row, pairs: Sequence[Row], at: datetime, suspension: Suspension | None
) -> DomainView:
    """A row of a list (store.lists): as domain_view(), without chains."""
    name = row["name"]
    return DomainView(
        domain=name,
        account=row["account"],
        service_type=row["service_type"],
        origin=Origin.model_validate(row["origin"]),
        state=_state(row["served_until"], suspension),
        settings=Settings.model_validate(row["settings"]),
        trust=row["trust"],
        certificates=[
            _certificate(Facts.model_validate_json(p["facts"]), name, at, p["source"], p["name"])
            for p in pairs
        ],
        revision=row["revision"],
        live_revision=row["live_revision"],
        pending_submission=row["pending_id"],
        registered_at=row["registered_at"],
        suspension=suspension,
    )


def _state(served_until: datetime | None, suspension: Suspension | None) -> DomainState:
    if served_until is None:
        return DomainState.DISABLED
    return DomainState.ENABLED if suspension is None else DomainState.SUSPENDED


def _certificates(domain: Domain, at: datetime) -> list[CertificateView]:
    live: Certificate | None = domain.live
    if live is None:
        return []
    return [
        _certificate(pair, domain.name, at, live.source, live.name, pair.chain)
        for pair in live.pairs
    ]


def _certificate(
    pair: JudgedPair | Facts,
    domain: str,
    at: datetime,
    source: Literal["custom", "stored"],
    name: str,
    chain: str = "",
) -> CertificateView:
    return CertificateView(
        source=source,
        name=name or None,
        subject=pair.subject,
        sans=pair.sans,
        issuer=pair.issuer,
        key_type=pair.key_type,
        key_bits=pair.key_bits,
        not_before=pair.not_before,
        not_after=pair.not_after,
        days_left=max(0, (pair.not_after - at).days),
        fingerprint=pair.leaf_fingerprint,
        chain=chain,
        status=status(pair, domain, at),
    )


def stored_view(entry: Entry, domains: int, at: datetime) -> StoredView:
    """``domains``: how many it serves. A stored certificate fits whatever it covers: none is a
    mismatch."""
    kept = entry.certificate
    return StoredView(
        name=entry.name,
        account=entry.account,
        trust=entry.trust,
        version=entry.version,
        stored_at=entry.stored_at,
        certificates=[
            _certificate(pair, next(iter(pair.sans), ""), at, "stored", entry.name, pair.chain)
            for pair in (kept.pairs if kept else ())
        ],
        domains=domains,
        pending_submission=entry.pending.cause.command_id if entry.pending else None,
    )


def status(pair: JudgedPair | Facts, domain: str, at: datetime) -> CertificateStatus:
    """The gravest that holds."""
    if at >= pair.not_after:
        return "expired"
    if not covered(pair.sans, domain):
        return "mismatch"
    return "expires_soon" if pair.not_after - at <= SOON else "ok"
