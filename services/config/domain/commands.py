"""What can be asked of a domain's state machine, and the facts that come of it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.config.domain.model import Cause, Certificate, Pending, Trusts
from shared.contracts.base import SealedKey
from shared.contracts.commands import ChangeSettings, SubmittedPair
from shared.contracts.domains import Origin, Outcome, ServiceType, Settings
from shared.contracts.findings import Finding
from shared.contracts.judging import JudgedPair

# --- Orders: commands with their cause ---


@dataclass(frozen=True)
class Register:
    cause: Cause
    name: str
    service_type: ServiceType
    origin: Origin
    trust: Trusts


@dataclass(frozen=True)
class Remove:
    cause: Cause


@dataclass(frozen=True)
class Submit:
    """``request_id``: the id of the message that will ask the validator. ``name``: empty where none
    was given."""

    cause: Cause
    request_id: str
    pairs: tuple[SubmittedPair, ...]
    strict: bool
    name: str = ""


@dataclass(frozen=True)
class Deploy:
    """Serve the library's certificate. ``stored``: a copy of it as it is now, None where there is
    none.

    ``ready`` False: the library has not come to this command yet, so the domain waits."""

    cause: Cause
    stored: Certificate | None
    ready: bool = True


@dataclass(frozen=True)
class Follow:
    """The entry that the domain's certificate came from was replaced by ``stored``; None: not by
    this command any more, a later one overtook it."""

    cause: Cause
    entry: str
    stored: Certificate | None


@dataclass(frozen=True)
class Rollback:
    cause: Cause


@dataclass(frozen=True)
class Disable:
    cause: Cause


@dataclass(frozen=True)
class Change:
    """``wanted.origin`` is checked and in normal form."""

    cause: Cause
    wanted: ChangeSettings


@dataclass(frozen=True)
class Reseal:
    cause: Cause
    pair_id: str
    old_epoch: int
    sealed_key: SealedKey


@dataclass(frozen=True)
class Hopeless:
    """A command that its own content refuses, whatever the state: a bad name, service type or
    origin."""

    cause: Cause
    findings: tuple[Finding, ...]


Order = (
    Register | Remove | Submit | Deploy | Follow | Rollback | Disable | Change | Reseal | Hopeless
)

# --- Answers that a pending submission waits for ---


@dataclass(frozen=True)
class Judged:
    """The validator's verdict on one domain, its signatures checked. No pairs: refused."""

    submission_id: str
    pairs: tuple[JudgedPair, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Timeout:
    """The deadline of a submission is over."""

    submission_id: str


@dataclass(frozen=True)
class Suspend:
    """The account is overdue (rule E7)."""

    cause: Cause


@dataclass(frozen=True)
class Resume:
    cause: Cause


# --- Facts ---

Moves = Literal[
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
class Registered:
    cause: Cause
    name: str
    service_type: ServiceType
    origin: Origin
    trust: Trusts
    revision: int
    at: datetime


@dataclass(frozen=True)
class Removed:
    cause: Cause
    revision: int


@dataclass(frozen=True)
class JudgingBegan:
    pending: Pending
    pairs: tuple[SubmittedPair, ...]
    strict: bool


@dataclass(frozen=True)
class JudgingEnded:
    submission_id: str


@dataclass(frozen=True)
class Installed:
    """A certificate becomes the live one; the one before is kept for a rollback."""

    cause: Cause
    certificate: Certificate
    revision: int
    change: Literal["enabled", "replaced"]


@dataclass(frozen=True)
class RolledBack:
    """The certificate before is served again; the two swap places."""

    cause: Cause
    revision: int


@dataclass(frozen=True)
class Disabled:
    cause: Cause
    revision: int


@dataclass(frozen=True)
class FindingsDropped:
    """What was found in the domain's submissions goes with its pair (rule B3)."""


@dataclass(frozen=True)
class SettingsChanged:
    cause: Cause
    settings: Settings
    origin: Origin
    trust: Trusts
    revision: int


@dataclass(frozen=True)
class Resealed:
    """One kept pair has its key sealed to a newer epoch; the revision stays. ``shown``: the
    bundle's epoch rises."""

    cause: Cause
    pair_id: str
    sealed_key: SealedKey
    revision: int
    shown: bool


@dataclass(frozen=True)
class SuspensionChanged:
    """``revision`` is None where no certificate is served that it could change."""

    cause: Cause
    suspended: bool
    revision: int | None


@dataclass(frozen=True)
class Settled:
    """The one end of a command for this domain."""

    cause: Cause
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    revision: int | None = None


Event = (
    Registered
    | Removed
    | JudgingBegan
    | JudgingEnded
    | Installed
    | RolledBack
    | Disabled
    | FindingsDropped
    | SettingsChanged
    | Resealed
    | SuspensionChanged
    | Settled
)
