"""What may be seen of domains and library entries (rule C2): everything but a key, for which no
field exists (rule C1). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec

from services.config.domain.model import (
    Certificate,
    CertificateSource,
    Domain,
    LibraryEntry,
)
from shared.contracts.accounts import Suspension
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

# How long before its end a certificate is shown as ``expires_soon``. A warning that comes with a
# command is given later (reuse_checks.WARN_BEFORE_EXPIRY).
SHOW_EXPIRING: Final = timedelta(days=30)
# Origins and settings that are kept after they were read. Contracts are frozen: pages may share
# them.
_KEPT_VALUES: Final = 4096


class TableRow(Protocol):
    """Columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


class PairFacts(msgspec.Struct):
    """What a list shows of a pair: all but its chain, its key and its attestation.

    The JSON is our own (store/domains.py), so no contract checks it."""

    leaf_fingerprint: str
    subject: str
    sans: list[str]
    issuer: str
    key_type: str
    key_bits: int
    not_before: datetime
    not_after: datetime


_read_facts: Final = msgspec.json.Decoder(PairFacts).decode


@lru_cache(maxsize=_KEPT_VALUES)
def read_origin(text: str) -> Origin:
    """Return the origin in a JSON text. Most domains share one of few values."""
    return Origin.model_validate_json(text)


@lru_cache(maxsize=_KEPT_VALUES)
def read_settings(text: str) -> Settings:
    """Return the settings in a JSON text. Most domains share one of few values."""
    return Settings.model_validate_json(text)


def view_domain(
    domain: Domain, live_revision: int | None, at: datetime, suspension: Suspension | None = None
) -> DomainView:
    """Return a domain as it is shown at the time ``at``."""
    pending_submission = None
    if domain.pending is not None:
        pending_submission = domain.pending.cause.command_id
    return DomainView(
        domain=domain.name,
        account=domain.account,
        service_type=domain.service_type,
        origin=domain.origin,
        state=domain.state,
        settings=domain.settings,
        trust=domain.trust,
        certificates=_view_pairs(domain.live, domain.name, at),
        revision=domain.revision,
        live_revision=live_revision,
        pending_submission=pending_submission,
        registered_at=domain.registered_at,
        suspension=suspension,
    )


def view_listed_domain(
    row: TableRow, pairs: Sequence[TableRow], at: datetime, suspension: Suspension | None
) -> DomainView:
    """Return a row of a list (store/domain_list.py) as ``view_domain`` does, without chains."""
    name = row["name"]
    certificates = []
    for pair in pairs:
        facts = _read_facts(pair["facts"])
        source = row["served_source"]
        certificates.append(_view_pair(facts, name, at, source, pair["certificate_name"]))
    state = DomainState.DISABLED
    if row["served_until"] is not None:
        state = DomainState.ENABLED if suspension is None else DomainState.SUSPENDED
    return DomainView(
        domain=name,
        account=row["account"],
        service_type=row["service_type"],
        origin=read_origin(row["origin"]),
        state=state,
        settings=read_settings(row["settings"]),
        trust=row["trust"],
        certificates=certificates,
        revision=row["revision"],
        live_revision=row["live_revision"],
        pending_submission=row["pending_id"],
        registered_at=row["registered_at"],
        suspension=suspension,
    )


def view_entry(entry: LibraryEntry, domains: int, at: datetime) -> StoredView:
    """Return a library entry that serves ``domains`` domains.

    A stored certificate fits whatever it covers: none is shown as a mismatch."""
    pending_submission = None
    if entry.pending is not None:
        pending_submission = entry.pending.cause.command_id
    return StoredView(
        name=entry.name,
        account=entry.account,
        trust=entry.trust,
        version=entry.version,
        stored_at=entry.stored_at,
        certificates=_view_pairs(entry.certificate, None, at),
        domains=domains,
        pending_submission=pending_submission,
    )


def certificate_status(
    pair: JudgedPair | PairFacts, domain: str, at: datetime
) -> CertificateStatus:
    """Return the gravest status that holds."""
    if at >= pair.not_after:
        return "expired"
    if not covered(pair.sans, domain):
        return "mismatch"
    return "expires_soon" if pair.not_after - at <= SHOW_EXPIRING else "ok"


def _view_pairs(
    certificate: Certificate | None, domain: str | None, at: datetime
) -> list[CertificateView]:
    """Return the pairs of a certificate; ``domain`` None: as fit for a name that each covers."""
    views: list[CertificateView] = []
    if certificate is None:
        return views
    for pair in certificate.pairs:
        fits = next(iter(pair.sans), "") if domain is None else domain
        view = _view_pair(pair, fits, at, certificate.source, certificate.name, pair.chain)
        views.append(view)
    return views


def _view_pair(
    pair: JudgedPair | PairFacts,
    domain: str,
    at: datetime,
    source: CertificateSource,
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
        status=certificate_status(pair, domain, at),
    )
