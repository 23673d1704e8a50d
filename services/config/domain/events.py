"""What came of a command: the events of domains and library entries. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.config.domain.model import Cause, Certificate, PendingSubmission, RootTrust
from shared.contracts.base import SealedKey
from shared.contracts.commands import SubmittedPair
from shared.contracts.domains import Origin, Outcome, ServiceType, Settings
from shared.contracts.findings import Code, Finding, finding

# The kinds of change of a domain's desired state, as https.event.domain.changed.v1 names them.
BundleChange = Literal[
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


@dataclass(frozen=True)
class Settled:
    """The one end of a command at one target."""

    cause: Cause
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    revision: int | None = None


@dataclass(frozen=True)
class JudgingBegan:
    """The validator is to be asked. ``trust``: the roots to judge by."""

    pending: PendingSubmission
    pairs: tuple[SubmittedPair, ...]
    trust: RootTrust
    strict: bool


@dataclass(frozen=True)
class JudgingEnded:
    """The submission is not pending any more."""

    submission_id: str


@dataclass(frozen=True)
class PairResealed:
    """The key of one kept pair is sealed to a newer epoch.

    ``revision``: the domain's, which stays as it is; None in the library. ``shown``: the epoch of
    the domain's bundle rises."""

    cause: Cause
    pair_id: str
    sealed_key: SealedKey
    revision: int | None = None
    shown: bool = False


# --- Of a domain ---


@dataclass(frozen=True)
class Registered:
    """A domain was registered, or registered again above its tombstone."""

    cause: Cause
    name: str
    service_type: ServiceType
    origin: Origin
    trust: RootTrust
    revision: int
    at: datetime


@dataclass(frozen=True)
class Removed:
    """Only the domain's tombstone is left."""

    cause: Cause
    revision: int


@dataclass(frozen=True)
class Installed:
    """A certificate becomes the live one. The one before is kept for a rollback."""

    cause: Cause
    certificate: Certificate
    revision: int
    change: Literal["enabled", "replaced"]


@dataclass(frozen=True)
class RolledBack:
    """The certificate before is served again. The two swap places."""

    cause: Cause
    revision: int


@dataclass(frozen=True)
class Disabled:
    """HTTPS is off, and nothing of the pairs is left."""

    cause: Cause
    revision: int


@dataclass(frozen=True)
class FindingsDropped:
    """The findings of the domain's earlier submissions are deleted with its pair (rule B3)."""


@dataclass(frozen=True)
class SettingsChanged:
    """Settings, origin and trust, in full."""

    cause: Cause
    settings: Settings
    origin: Origin
    trust: RootTrust
    revision: int


@dataclass(frozen=True)
class SuspensionChanged:
    """``revision`` is None where no certificate is served that it could change."""

    cause: Cause
    suspended: bool
    revision: int | None


# --- Of a library entry ---


@dataclass(frozen=True)
class Stored:
    """A certificate was accepted into the library. ``replaces``: domains that use the entry
    follow."""

    cause: Cause
    certificate: Certificate
    at: datetime
    replaces: bool


@dataclass(frozen=True)
class Deleted:
    """The entry is gone."""

    cause: Cause


@dataclass(frozen=True)
class DeploymentResolved:
    """The domains may take their turn. ``entry`` None: there is no such certificate."""

    cause: Cause
    domains: tuple[str, ...]
    entry: str | None


Event = (
    Settled
    | JudgingBegan
    | JudgingEnded
    | PairResealed
    | Registered
    | Removed
    | Installed
    | RolledBack
    | Disabled
    | FindingsDropped
    | SettingsChanged
    | SuspensionChanged
    | Stored
    | Deleted
    | DeploymentResolved
)


def applied(cause: Cause, revision: int | None = None) -> Settled:
    """Return the end of a command that changed something."""
    return Settled(cause, Outcome.APPLIED, revision=revision)


def unchanged(cause: Cause, revision: int | None = None) -> Settled:
    """Return the end of a command that asked for what is so already."""
    return Settled(cause, Outcome.UNCHANGED, revision=revision)


def refused(cause: Cause, *findings: Finding) -> Settled:
    """Return the end of a command that the rules refuse."""
    return Settled(cause, Outcome.REFUSED, findings)


def superseded(cause: Cause) -> Settled:
    """Return the end of a command that a later one overtook."""
    return Settled(cause, Outcome.SUPERSEDED, (finding(Code.SUBMISSION_SUPERSEDED),))
