"""The account's certificate library (rules B9 to B11): one entry's state machine, like a domain's.
Pure.

An entry is judged once, for every name of its leaf; deployments and domains that follow it are
decided domain by domain (services/config/domain/domain_machine.py), with what only time and the
domain decide asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.config.domain.commands import Hopeless, Judged, Reseal, Settled, Timeout
from services.config.domain.model import Cause, Certificate, Pending, Trusts
from shared.contracts.base import SealedKey
from shared.contracts.commands import SubmittedPair
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, Finding, finding

MARK = "@"
_NAMED = 50


def entry_key(account: str, name: str) -> str:
    """Under which the commands of an entry run one after the other; no domain has it."""
    return f"{MARK}{account}/{name}"


def owner(key: str) -> tuple[str, str]:
    """The account and the name of a key; the name is empty where the key is that of the account's
    roots."""
    account, _, name = key.removeprefix(MARK).partition("/")
    return account, name


@dataclass(frozen=True)
class Entry:
    """``certificate`` None: the first one is still being judged. ``version`` counts the
    certificates that were accepted under this entry; ``stored_at`` is when the last was;
    ``awaited``: the trust that is asked for."""

    account: str
    name: str
    trust: Trusts
    version: int = 0
    certificate: Certificate | None = None
    stored_at: datetime | None = None
    pending: Pending | None = None
    awaited: Trusts = "public"

    @property
    def key(self) -> str:
        return entry_key(self.account, self.name)

    @property
    def id(self) -> str | None:
        return self.certificate.entry if self.certificate else None


# --- What can be asked ---


@dataclass(frozen=True)
class Store:
    cause: Cause
    name: str
    request_id: str
    pairs: tuple[SubmittedPair, ...]
    trust: Trusts
    overwrite: bool
    strict: bool


@dataclass(frozen=True)
class Delete:
    cause: Cause


@dataclass(frozen=True)
class Resolve:
    """A deployment's turn in the library: what it will deploy is known now; each domain then takes
    its own turn."""

    cause: Cause
    domains: tuple[str, ...]


Asked = Store | Delete | Resolve | Reseal | Hopeless
Input = Asked | Judged | Timeout


@dataclass(frozen=True)
class Known:
    """``taken``: a domain of the account has a custom certificate of this name. ``users``: domains
    that the entry serves; ``kept``: those that could only be rolled back to it. ``unsettled``: an
    earlier deployment has not come to its end on every domain."""

    taken: bool = False
    users: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unsettled: bool = False


# --- Facts ---


@dataclass(frozen=True)
class StoreBegan:
    name: str
    pending: Pending
    pairs: tuple[SubmittedPair, ...]
    trust: Trusts
    strict: bool


@dataclass(frozen=True)
class StoreEnded:
    submission_id: str


@dataclass(frozen=True)
class Stored:
    """Accepted; ``replaces``: domains that use the entry follow."""

    cause: Cause
    certificate: Certificate
    at: datetime
    replaces: bool


@dataclass(frozen=True)
class Deleted:
    cause: Cause


@dataclass(frozen=True)
class Resolved:
    """``entry`` None: there is no such certificate."""

    cause: Cause
    domains: tuple[str, ...]
    entry: str | None


@dataclass(frozen=True)
class PairResealed:
    cause: Cause
    pair_id: str
    sealed_key: SealedKey


Event = StoreBegan | StoreEnded | Stored | Deleted | Resolved | PairResealed | Settled


def decide(state: Entry | None, asked: Input, *, at: datetime, known: Known) -> list[Event]:
    match asked:
        case Hopeless():
            return [Settled(asked.cause, Outcome.REFUSED, asked.findings)]
        case Judged() | Timeout():
            return _answer(state, asked, at)
        case Store():
            return _store(state, asked, known)
        case Delete():
            return _delete(state, asked, known)
        case Resolve():
            return [Resolved(asked.cause, asked.domains, state.id if state else None)]
        case Reseal():
            return _reseal(state, asked)


def overtakes(asked: Input, known: Known) -> bool:
    """A store that may replace, and is not refused at once, ends one that is being judged instead
    of waiting for its verdict."""
    return isinstance(asked, Store) and asked.overwrite and not known.taken


def supersede(state: Entry) -> list[Event]:
    if state.pending is None:
        return []
    cause = state.pending.cause
    found = (finding(Code.SUBMISSION_SUPERSEDED),)
    return [StoreEnded(cause.command_id), Settled(cause, Outcome.SUPERSEDED, found)]


def evolve(state: Entry | None, event: Event) -> Entry | None:
    """None: there is no entry (any more)."""
    if isinstance(event, StoreBegan):
        before = state or Entry(event.pending.cause.account, event.name, event.trust)
        return replace(before, pending=event.pending, awaited=event.trust)
    if state is None:
        return None
    match event:
        case StoreEnded():
            return replace(state, pending=None) if state.certificate else None
        case Stored():
            return replace(
                state,
                pending=None,
                certificate=event.certificate,
                trust=event.certificate.trust,
                version=state.version + 1,
                stored_at=event.at,
            )
        case Deleted():
            return None
        case PairResealed() if state.certificate is not None:
            pairs = tuple(
                pair.model_copy(update={"sealed_key": event.sealed_key})
                if pair.pair_id == event.pair_id
                else pair
                for pair in state.certificate.pairs
            )
            return replace(state, certificate=replace(state.certificate, pairs=pairs))
    return state


def evolve_all(state: Entry | None, events: Iterable[Event]) -> Entry | None:
    for event in events:
        state = evolve(state, event)
    return state


@dataclass
class Run:
    """What came of an entry's waiting commands: the first ``ran`` of them did run, the others are
    held."""

    state: Entry | None
    events: list[Event] = field(default_factory=list)
    ran: int = 0

    def add(self, events: list[Event]) -> None:
        self.events += events
        self.state = evolve_all(self.state, events)


def run(state: Entry | None, orders: Sequence[Asked], *, at: datetime, known: Known) -> Run:
    """In the order of their stream. A store that is being judged holds back what comes after it,
    unless one that may replace it is among that; a deletion waits until every deployment before it
    has ended on its domains."""
    done = Run(state)
    for index, order in enumerate(orders):
        current = done.state
        if current is not None and current.pending is not None:
            if not any(overtakes(later, known) for later in orders[index:]):
                break
            done.add(supersede(current))
        unsettled = known.unsettled or any(isinstance(event, Resolved) for event in done.events)
        if isinstance(order, Delete) and unsettled:
            break
        done.add(decide(done.state, order, at=at, known=known))
        done.ran += 1
    return done


def _store(state: Entry | None, asked: Store, known: Known) -> list[Event]:
    if known.taken or (state is not None and state.certificate is not None and not asked.overwrite):
        return [_refused(asked.cause, finding(Code.CERTIFICATE_NAME_TAKEN, field="request"))]
    pending = Pending(asked.cause, asked.request_id, asked.name)
    return [StoreBegan(asked.name, pending, asked.pairs, asked.trust, asked.strict)]


def _delete(state: Entry | None, asked: Delete, known: Known) -> list[Event]:
    if state is None or state.certificate is None:
        return [_refused(asked.cause, finding(Code.CERTIFICATE_UNKNOWN, field="request"))]
    if known.users or known.kept:
        return [_refused(asked.cause, _in_use(known))]
    return [Deleted(asked.cause), Settled(asked.cause, Outcome.APPLIED)]


def _in_use(known: Known) -> Finding:
    """A rollback would bring back as stored what the library has no more: what is kept for one is
    in use, too."""
    told = [f"It serves {_listed(known.users)}."] if known.users else []
    told += [f"Kept for a rollback by {_listed(known.kept)}."] if known.kept else []
    hint = (
        ""
        if known.users
        else "Such a copy goes with the domain's next certificate change, and with a disable."
    )
    return finding(Code.CERTIFICATE_IN_USE, " ".join(told)[:4000], field="request", hint=hint)


def _listed(domains: Sequence[str]) -> str:
    more = f" and {len(domains) - _NAMED} more" if len(domains) > _NAMED else ""
    return f"{len(domains)} domains: {', '.join(domains[:_NAMED])}{more}"


def _reseal(state: Entry | None, asked: Reseal) -> list[Event]:
    for pair in state.certificate.pairs if state and state.certificate else ():
        if (
            pair.pair_id == asked.pair_id
            and pair.sealed_key.epoch == asked.old_epoch < asked.sealed_key.epoch
        ):
            return [
                PairResealed(asked.cause, asked.pair_id, asked.sealed_key),
                Settled(asked.cause, Outcome.APPLIED),
            ]
    return [_refused(asked.cause, finding(Code.PAIR_CHANGED))]


def _answer(state: Entry | None, asked: Judged | Timeout, at: datetime) -> list[Event]:
    if (
        state is None
        or state.pending is None
        or state.pending.cause.command_id != asked.submission_id
    ):
        return []
    cause, live = state.pending.cause, state.certificate
    ended: list[Event] = [StoreEnded(asked.submission_id)]
    if isinstance(asked, Timeout):
        return [*ended, Settled(cause, Outcome.UNDECIDED, (finding(Code.SUBMISSION_UNDECIDED),))]
    if not asked.pairs:
        return [*ended, Settled(cause, Outcome.REFUSED, asked.findings)]
    entry = asked.submission_id if live is None else live.entry
    certificate = Certificate(
        asked.submission_id, asked.pairs, "stored", state.name, entry, state.awaited
    )
    if live is not None and _same(live, certificate):
        return [*ended, Settled(cause, Outcome.UNCHANGED, asked.findings)]
    return [
        Stored(cause, certificate, at, replaces=live is not None),
        Settled(cause, Outcome.APPLIED, asked.findings),
    ]


def _same(live: Certificate, certificate: Certificate) -> bool:
    identities = [
        sorted((p.leaf_fingerprint, p.chain) for p in one.pairs) for one in (live, certificate)
    ]
    return identities[0] == identities[1] and live.trust == certificate.trust


def _refused(cause: Cause, *findings: Finding) -> Settled:
    return Settled(cause, Outcome.REFUSED, findings)
