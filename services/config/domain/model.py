"""One domain as it is: what the state machine reads and writes. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from shared.contracts.domains import DomainState, Origin, ServiceType, Settings
from shared.contracts.judging import JudgedPair

Trusts = Literal["public", "private"]
Sources = Literal["custom", "stored"]


@dataclass(frozen=True)
class Cause:
    """The command that something happens for. ``received_at``: when the stream stored it."""

    command_id: str
    command: str
    source: str
    account: str
    received_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True)
class Where:
    """Where a command ends, as events and history name it: on a ``domain``, or (None) in the
    account's library, on a ``certificate`` of it where the command names one."""

    domain: str | None
    certificate: str | None = None


@dataclass(frozen=True)
class Certificate:
    """An accepted certificate: one pair for each key type (at most two), keys sealed to the fleet.

    ``source``: uploaded for this domain, or a copy of the account's library entry ``entry`` (its
    id; a name can be given again after a deletion). ``name``: empty where none was given yet.
    ``trust``: the roots it was judged by."""

    submission_id: str
    pairs: tuple[JudgedPair, ...]
    source: Sources = "custom"
    name: str = ""
    entry: str | None = None
    trust: Trusts = "public"

    @property
    def epoch(self) -> int:
        """The lowest that one of its keys is sealed to: what a node must hold to be able to open
        them all."""
        return min((pair.sealed_key.epoch for pair in self.pairs), default=0)

    @property
    def until(self) -> datetime | None:
        """When the first of its pairs expires."""
        return min((pair.not_after for pair in self.pairs), default=None)


@dataclass(frozen=True)
class Pending:
    """A submission that is being judged. ``request_id``: the outbox message that asked the
    validator. ``name``: of the certificate, empty where it gets one of its own."""

    cause: Cause
    request_id: str
    name: str = ""


@dataclass(frozen=True)
class Domain:
    """``removed``: only its tombstone is left. ``suspended`` is the account's state and outlives a
    disable.

    ``registered_revision``: where this registration began; a revision below it belongs to an
    earlier one."""

    name: str
    account: str
    service_type: ServiceType
    origin: Origin
    trust: Trusts
    revision: int
    registered_revision: int
    registered_at: datetime
    settings: Settings = field(default_factory=Settings)
    live: Certificate | None = None
    previous: Certificate | None = None
    pending: Pending | None = None
    suspended: bool = False
    removed: bool = False

    @property
    def state(self) -> DomainState:
        if self.live is None:
            return DomainState.DISABLED
        return DomainState.SUSPENDED if self.suspended else DomainState.ENABLED

    def owned_by(self, account: str | None) -> bool:
        """Whether it may be seen and changed for ``account`` (None: for anyone)."""
        return not self.removed and account in (None, self.account)


@dataclass(frozen=True)
class Known:
    """What a command needs to know beyond its domain. ``holders``: the accounts that hold the
    wildcard above it, or a host under it (rule A2). ``taken``: (account, certificate name) that the
    account's library or another domain of it has (rule B10)."""

    holders: frozenset[str] = frozenset()
    taken: frozenset[tuple[str, str]] = frozenset()
