"""A domain as its owner sees and changes it, and the events that config publishes about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.accounts import Suspension
from shared.contracts.base import Account, Contract, Hash, Identifier, Name, Utc


class ServiceType(StrEnum):
    IMAGE_SMALL_FILE = "image_small_file"
    DOWNLOAD = "download"
    VIDEO = "video"
    LIVE_STREAMING = "live_streaming"


class Origin(Contract):
    """Where a node fetches content. ``host`` is a name or an address; ``port`` defaults by
    scheme."""

    scheme: Literal["http", "https"]
    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


class RedirectMode(StrEnum):
    OFF = "off"
    TO_HTTPS = "to_https"
    TO_HTTP = "to_http"


class Redirect(Contract):
    mode: RedirectMode = RedirectMode.OFF
    status: Literal[301, 302, 307, 308] = 301


class Hsts(Contract):
    """Strict-Transport-Security (RFC 6797); None in Settings means no header. ``max_age`` is in
    seconds."""

    max_age: Annotated[int, Field(ge=0, le=63_072_000)]
    include_subdomains: bool = False
    preload: bool = False


TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]


class Settings(Contract):
    """HTTPS settings of a domain (rules B2, B6). The TLS range is contiguous: min to max."""

    redirect: Redirect = Redirect()
    http2: bool = False
    tls_min: TlsVersion = "1.2"
    tls_max: TlsVersion = "1.3"
    hsts: Hsts | None = None


class DomainState(StrEnum):
    DISABLED = "disabled"
    ENABLED = "enabled"
    SUSPENDED = "suspended"


CertificateStatus = Literal["ok", "expires_soon", "expired", "mismatch"]


class CertificateView(Contract):
    """A certificate as its owner may see it; a key has no field (rule C1)."""

    source: Literal["custom", "stored"]
    name: str | None
    subject: str
    sans: list[str]
    issuer: str
    key_type: str
    key_bits: int
    not_before: Utc
    not_after: Utc
    days_left: int
    fingerprint: Hash
    chain: str
    status: CertificateStatus


class DomainView(Contract):
    """A domain with its state, settings and certificates (rule C2).

    ``trust``: the roots that certificates are judged by. ``live_revision``: the revision that every
    live node serves, None while unknown. ``suspension``: why nodes refuse HTTPS, None while the
    account is not suspended. In lists the certificates' ``chain`` is empty."""

    domain: Name
    account: Account
    service_type: ServiceType
    origin: Origin
    state: DomainState
    settings: Settings
    trust: Literal["public", "private"] = "public"
    certificates: list[CertificateView]
    revision: int
    live_revision: int | None
    pending_submission: str | None
    registered_at: Utc
    suspension: Suspension | None = None


class DomainRegistered(Contract):
    """https.event.domain.registered.v1: the account owns the domain from ``at`` on."""

    domain: Name
    account: Account
    service_type: ServiceType
    revision: int
    at: Utc


class DomainRemoved(Contract):
    """https.event.domain.removed.v1: the account owned the domain until ``at``."""

    domain: Name
    account: Account
    revision: int
    at: Utc


class DomainChanged(Contract):
    """https.event.domain.changed.v1: the desired state moved to ``revision``.

    ``submitted_at`` is the stream time of the command that caused it, to measure how long an update
    takes."""

    domain: Name
    account: Account
    revision: int
    change: Literal[
        "registered",
        "enabled",
        "replaced",
        "rolled_back",
        "disabled",
        "settings",
        "resealed",
        "suspended",
        "resumed",
        "removed",
    ]
    command_id: Identifier
    submitted_at: Utc


NoticeDays = Literal[30, 14, 7, 1]


class CertificateExpiring(Contract):
    """https.event.certificate.expiring.v1 (rule C5): the served certificate ends in ``days`` days.

    It is sent once each at 30, 14, 7 and 1 days before ``not_after``. A notice that was already due
    when the certificate arrived is not sent."""

    domain: Name
    account: Account
    days: NoticeDays
    not_after: Utc
    at: Utc


class CertificateExpired(Contract):
    """https.event.certificate.expired.v1: the served certificate ended at ``not_after``; sent
    once."""

    domain: Name
    account: Account
    not_after: Utc
    at: Utc


class Outcome(StrEnum):
    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    UNDECIDED = "undecided"


class CommandSettled(Contract):
    """https.event.command.settled.v1: how a command ended for one domain, for an entry of the
    library, or for the account itself.

    ``domain`` None: it ended in the account's library (``certificate`` is the name) or for the
    account. ``codes`` are those of the findings; ask https.rpc.command.show.v1 for the findings in
    full."""

    command_id: Identifier
    command: str
    domain: Name | None
    certificate: Annotated[str, Field(max_length=1000)] | None = None
    account: Account
    outcome: Outcome
    codes: list[str]
    revision: int | None
    at: Utc


class HistoryEntry(Contract):
    """A command and its outcome (rule C4), on a ``domain``, or without one on the account's library
    (``certificate``) or the account itself."""

    domain: str | None
    certificate: str | None
    account: Account
    command_id: Identifier
    command: str
    source: str
    outcome: Outcome
    codes: list[str]
    revision: int | None
    received_at: Utc
    settled_at: Utc
