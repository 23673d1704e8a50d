"""The two aggregates of config, a domain and an entry of an account's certificate library, with
what commands carry and need. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from shared.contracts.base import SealedKey
from shared.contracts.domains import DomainState, Origin, ServiceType, Settings
from shared.contracts.findings import Finding
from shared.contracts.judging import JudgedPair

RootTrust = Literal["public", "private"]
CertificateSource = Literal["custom", "stored"]
# The first character of the key of a library entry, and of a key that invalid names share. No
# domain name begins with either.
LIBRARY_PREFIX: Final = "@"
INVALID_PREFIX: Final = "!"


@dataclass(frozen=True)
class Cause:
    """The message that a change is made for. ``received_at``: when its stream stored it."""

    command_id: str
    command: str
    source: str
    account: str
    received_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True)
class CommandTarget:
    """One place where a command takes effect.

    ``key`` orders commands: those of one key run one after the other. It is a domain in normal form
    or the key of a library entry. Events and history name ``domain``; None stands for the account's
    library, with the name of the ``certificate`` where the command gives one. ``findings`` say why
    the command's names are invalid; it is refused with them."""

    key: str
    domain: str | None
    certificate: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def in_library(self) -> bool:
        return self.key.startswith(LIBRARY_PREFIX)


def domain_target(name: str) -> CommandTarget:
    """Return the target of a domain in normal form."""
    return CommandTarget(name, name)


def library_target(key: str) -> CommandTarget:
    """Return the target of a key in the library."""
    return CommandTarget(key, None, split_library_key(key)[1] or None)


def library_key(account: str, name: str) -> str:
    """Return the key of a library entry, or of the account itself where ``name`` is empty."""
    return f"{LIBRARY_PREFIX}{account}/{name}"


def split_library_key(key: str) -> tuple[str, str]:
    """Return account and certificate name of a library key; the account's own has no name."""
    account, _, name = key.removeprefix(LIBRARY_PREFIX).partition("/")
    return account, name


@dataclass(frozen=True)
class CommandContext:
    """What a command needs to know beyond the state of its domain or library entry.

    ``revision``: the next global number, above every one given before. A command that changes
    nothing leaves it unused. ``taken``: (account, certificate name) in use elsewhere in the account
    (rule B10).

    For domains, ``holders``: accounts that hold the wildcard above a name or a host under it (rule
    A2). For library entries, ``users``: domains that the entry serves; ``kept_by``: domains that
    could only be rolled back to it; ``unsettled``: a deployment before this command has not come to
    its end on every domain."""

    at: datetime
    revision: int = 0
    taken: frozenset[tuple[str, str]] = frozenset()
    holders: frozenset[str] = frozenset()
    users: tuple[str, ...] = ()
    kept_by: tuple[str, ...] = ()
    unsettled: bool = False


@dataclass(frozen=True)
class Certificate:
    """An accepted certificate: one pair for each key type (at most two), keys sealed to the fleet.

    ``source``: uploaded for this domain, or a copy of the account's library entry ``entry`` (its
    id: a name can be given again after a deletion). ``name`` is empty where none was given yet.
    ``trust``: the roots that it was judged by."""

    submission_id: str
    pairs: tuple[JudgedPair, ...]
    source: CertificateSource = "custom"
    name: str = ""
    entry: str | None = None
    trust: RootTrust = "public"

    @property
    def epoch(self) -> int:
        """Return the lowest epoch of its keys: a node that holds it can open all of them."""
        return min((pair.sealed_key.epoch for pair in self.pairs), default=0)

    @property
    def expires_at(self) -> datetime | None:
        """Return when the first of its pairs expires."""
        return min((pair.not_after for pair in self.pairs), default=None)

    def has_same_pairs(self, other: Certificate) -> bool:
        """Return whether it has the same leaves with the same chains. A leaf names its key, so the
        keys need no comparison."""
        return _pair_identities(self) == _pair_identities(other)

    def can_reseal(self, pair_id: str, old_epoch: int, new_epoch: int) -> bool:
        """Return whether the pair's key is still sealed to ``old_epoch``, an earlier one."""
        if old_epoch >= new_epoch:
            return False
        return any(
            pair.pair_id == pair_id and pair.sealed_key.epoch == old_epoch for pair in self.pairs
        )

    def with_key(self, pair_id: str, sealed_key: SealedKey) -> Certificate:
        """Return the certificate with another sealed key in one pair."""
        pairs = []
        for pair in self.pairs:
            if pair.pair_id == pair_id:
                pair = pair.model_copy(update={"sealed_key": sealed_key})
            pairs.append(pair)
        return replace(self, pairs=tuple(pairs))


def _pair_identities(certificate: Certificate) -> list[tuple[str, str]]:
    return sorted((pair.leaf_fingerprint, pair.chain) for pair in certificate.pairs)


@dataclass(frozen=True)
class PendingSubmission:
    """A submission that is being judged.

    ``request_id``: id of the outbox message that asked the validator. ``name``: of the certificate;
    empty where it gets a generated one."""

    cause: Cause
    request_id: str
    name: str = ""


@dataclass(frozen=True)
class Domain:
    """A registered domain.

    ``removed``: only its tombstone is left. ``suspended`` is the account's state and outlives a
    disable. ``registered_revision``: where this registration began; a lower revision belongs to an
    earlier one."""

    name: str
    account: str
    service_type: ServiceType
    origin: Origin
    trust: RootTrust
    revision: int
    registered_revision: int
    registered_at: datetime
    settings: Settings = field(default_factory=Settings)
    live: Certificate | None = None
    previous: Certificate | None = None
    pending: PendingSubmission | None = None
    suspended: bool = False
    removed: bool = False

    @property
    def state(self) -> DomainState:
        if self.live is None:
            return DomainState.DISABLED
        return DomainState.SUSPENDED if self.suspended else DomainState.ENABLED

    def owned_by(self, account: str | None) -> bool:
        """Return whether it may be seen and changed for ``account`` (None: for any account)."""
        return not self.removed and account in (None, self.account)


@dataclass(frozen=True)
class LibraryEntry:
    """A certificate of an account's library.

    ``certificate`` is None while the first one is being judged. ``version`` counts the certificates
    accepted under this entry, ``stored_at`` is when the last one was, ``pending_trust`` the trust
    that the pending submission asks for."""

    account: str
    name: str
    trust: RootTrust
    version: int = 0
    certificate: Certificate | None = None
    stored_at: datetime | None = None
    pending: PendingSubmission | None = None
    pending_trust: RootTrust = "public"

    @property
    def key(self) -> str:
        return library_key(self.account, self.name)

    @property
    def id(self) -> str | None:
        """Return the entry's id: it differs when a name is given again after a deletion."""
        if self.certificate is None:
            return None
        return self.certificate.entry
