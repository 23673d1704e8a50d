"""What can be asked of a domain or a library entry: commands, and what ends a judging. Values
only."""

from __future__ import annotations

from dataclasses import dataclass

from services.config.domain.model import Cause, Certificate, RootTrust
from shared.contracts.base import SealedKey
from shared.contracts.commands import ChangeSettings, SubmittedPair
from shared.contracts.domains import Origin, ServiceType
from shared.contracts.findings import Finding
from shared.contracts.judging import JudgedPair


@dataclass(frozen=True)
class InvalidCommand:
    """A command refused for its own content, whatever the state: a bad name, service type or
    origin."""

    cause: Cause
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class RegisterCommand:
    """Register a domain. Name and origin are in normal form."""

    cause: Cause
    name: str
    service_type: ServiceType
    origin: Origin
    trust: RootTrust


@dataclass(frozen=True)
class RemoveCommand:
    """Remove a domain."""

    cause: Cause


@dataclass(frozen=True)
class SubmitCommand:
    """Judge a certificate and serve it.

    ``request_id``: id of the message that will ask the validator. ``name`` is empty where none was
    given."""

    cause: Cause
    request_id: str
    pairs: tuple[SubmittedPair, ...]
    strict: bool
    name: str = ""


@dataclass(frozen=True)
class DeployCommand:
    """Serve a certificate of the library.

    ``ready`` False: the library has not come to this command yet, so the domain waits. Then
    ``stored`` is a copy of the entry's certificate, None where there is none."""

    cause: Cause
    stored: Certificate | None = None
    ready: bool = False


@dataclass(frozen=True)
class UpdateFromLibrary:
    """Serve the certificate that replaced the one of library entry ``entry``.

    ``stored`` None: a later command replaced it again, or the entry is gone."""

    cause: Cause
    entry: str
    stored: Certificate | None


@dataclass(frozen=True)
class RollbackCommand:
    """Serve the certificate before the live one."""

    cause: Cause


@dataclass(frozen=True)
class DisableCommand:
    """Switch HTTPS off."""

    cause: Cause


@dataclass(frozen=True)
class ChangeCommand:
    """Change settings, origin or trust. ``wanted.origin`` is checked and in normal form."""

    cause: Cause
    wanted: ChangeSettings


@dataclass(frozen=True)
class ResealCommand:
    """Replace the sealed key of one pair, if it is still sealed to ``old_epoch``."""

    cause: Cause
    pair_id: str
    old_epoch: int
    sealed_key: SealedKey


@dataclass(frozen=True)
class SuspendCommand:
    """Suspend a domain: its account is overdue (rule E7)."""

    cause: Cause


@dataclass(frozen=True)
class ResumeCommand:
    """End the suspension of a domain."""

    cause: Cause


@dataclass(frozen=True)
class StoreCommand:
    """Judge a certificate and keep it in the library."""

    cause: Cause
    name: str
    request_id: str
    pairs: tuple[SubmittedPair, ...]
    trust: RootTrust
    overwrite: bool
    strict: bool


@dataclass(frozen=True)
class DeleteCommand:
    """Delete a library entry."""

    cause: Cause


@dataclass(frozen=True)
class ResolveDeployment:
    """A deployment's turn in the library: it fixes which entry is deployed. Each domain then takes
    its own turn."""

    cause: Cause
    domains: tuple[str, ...]


@dataclass(frozen=True)
class TargetVerdict:
    """The validator's verdict on one domain or library entry, its signatures checked. Without pairs
    it is a refusal."""

    submission_id: str
    pairs: tuple[JudgedPair, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class JudgingTimeout:
    """The deadline of a submission is over."""

    submission_id: str


DomainCommand = (
    InvalidCommand
    | RegisterCommand
    | RemoveCommand
    | SubmitCommand
    | DeployCommand
    | UpdateFromLibrary
    | RollbackCommand
    | DisableCommand
    | ChangeCommand
    | ResealCommand
    | SuspendCommand
    | ResumeCommand
)
LibraryCommand = InvalidCommand | StoreCommand | DeleteCommand | ResolveDeployment | ResealCommand
# What a pending submission waits for.
JudgingResult = TargetVerdict | JudgingTimeout
