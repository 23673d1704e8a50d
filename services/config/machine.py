"""The state machine of one domain: ``decide(state, what is asked) -> events``, ``evolve(state, event) -> state``. Pure.

Every change takes the next global revision, handed in; a decision that changes nothing leaves it unused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from services.config import settings_rules
from services.config.orders import (
    Change,
    Disable,
    Disabled,
    Event,
    FindingsDropped,
    Hopeless,
    Installed,
    Judged,
    JudgingBegan,
    JudgingEnded,
    Order,
    Register,
    Registered,
    Remove,
    Removed,
    Reseal,
    Resealed,
    Resume,
    SettingsChanged,
    Settled,
    Submit,
    Suspend,
    SuspensionChanged,
    Timeout,
)
from services.config.state import Cause, Certificate, Domain, Known, Pending
from shared.contracts.domains import Outcome, Settings
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.judging import JudgedPair

Input = Order | Judged | Timeout | Suspend | Resume


def decide(
    state: Domain | None, asked: Input, *, revision: int, at: datetime, known: Known | None = None
) -> list[Event]:
    """What follows. ``revision``: the next number, above every one given before; ``known``: for Register."""
    match asked:
        case Hopeless():
            return [_refused(asked.cause, *asked.findings)]
        case Register():
            return _register(state, asked, revision, at, known or Known())
        case Judged() | Timeout():
            return _answer(state, asked, revision)
    if state is None or not state.owned_by(asked.cause.account):
        return [_refused(asked.cause, finding(Code.DOMAIN_UNKNOWN))]
    before = supersede(state) if overtakes(state, asked) else []
    return before + _owned(state, asked, revision)


def overtakes(state: Domain, asked: Input) -> bool:
    """Whether it ends a submission that is being judged instead of waiting for its verdict."""
    if state.pending is None or not isinstance(asked, Submit | Disable | Remove):
        return False
    return state.owned_by(asked.cause.account)


def supersede(state: Domain) -> list[Event]:
    """The end of the pending submission, if there is one, because a later command overtook it."""
    if state.pending is None:
        return []
    cause = state.pending.cause
    found = finding(Code.SUBMISSION_SUPERSEDED)
    return [JudgingEnded(cause.command_id), Settled(cause, Outcome.SUPERSEDED, (found,))]


def evolve(state: Domain | None, event: Event) -> Domain | None:
    """The state after the event. ValueError when a revision does not rise: that would be a bug, never an input."""
    if isinstance(event, Registered):
        _rising(state, event.revision)
        return Domain(
            event.name, event.cause.account, event.service_type, event.origin, event.trust, event.revision,
            registered_revision=event.revision, registered_at=event.at,
        )
    if state is None:
        return None
    match event:
        case Removed():
            return replace(_bare(state, event.revision), removed=True)
        case JudgingBegan():
            return replace(state, pending=event.pending)
        case JudgingEnded():
            return replace(state, pending=None)
        case Installed():
            _rising(state, event.revision)
            return replace(state, live=event.certificate, previous=state.live, revision=event.revision)
        case Disabled():
            return _bare(state, event.revision)
        case SettingsChanged():
            _rising(state, event.revision)
            return replace(state, settings=event.settings, revision=event.revision)
        case Resealed():
            return replace(state, live=_resealed(state.live, event), previous=_resealed(state.previous, event))
        case SuspensionChanged():
            revision = state.revision if event.revision is None else event.revision
            return replace(state, suspended=event.suspended, revision=revision)
        case FindingsDropped() | Settled():
            return state


def evolve_all(state: Domain | None, events: Iterable[Event]) -> Domain | None:
    for event in events:
        state = evolve(state, event)
    return state


def _register(state: Domain | None, asked: Register, revision: int, at: datetime, known: Known) -> list[Event]:
    cause = asked.cause
    if state is not None and not state.removed:
        same = (state.account, state.service_type, state.origin, state.trust) == (
            cause.account, asked.service_type, asked.origin, asked.trust,
        )
        if same:
            return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
        return [_refused(cause, finding(Code.DOMAIN_TAKEN))]
    if known.holders - {cause.account}:
        message = "A wildcard and the hosts under it belong to one account, and another account holds one of them."
        return [_refused(cause, finding(Code.DOMAIN_TAKEN, message))]
    return [
        Registered(cause, asked.name, asked.service_type, asked.origin, asked.trust, revision, at),
        _applied(cause, revision),
    ]


def _owned(
    state: Domain, asked: Remove | Submit | Disable | Change | Reseal | Suspend | Resume, revision: int
) -> list[Event]:
    cause = asked.cause
    match asked:
        case Remove():
            return [Removed(cause, revision), _applied(cause, revision), FindingsDropped()]
        case Submit():
            return [JudgingBegan(Pending(cause, asked.request_id), asked.pairs, asked.strict)]
        case Disable():
            return [*_disable(state, cause, revision), FindingsDropped()]
        case Change():
            return _change(state, asked, revision)
        case Reseal():
            return _reseal(state, asked)
        case Suspend() | Resume():
            return _suspend(state, cause, isinstance(asked, Suspend), revision)


def _disable(state: Domain, cause: Cause, revision: int) -> list[Event]:
    if state.live is None:
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    return [Disabled(cause, revision), _applied(cause, revision)]


def _change(state: Domain, asked: Change, revision: int) -> list[Event]:
    cause = asked.cause
    if state.live is None:
        return [_refused(cause, finding(Code.HTTPS_NOT_ENABLED))]
    settings = settings_rules.merge(state.settings, asked.wanted)
    if settings == state.settings:
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    conflicts = settings_rules.conflicts(settings)
    if conflicts:
        return [_refused(cause, *conflicts)]
    return [SettingsChanged(cause, settings, revision), _applied(cause, revision)]


def _reseal(state: Domain, asked: Reseal) -> list[Event]:
    """Compare and set. The revision stays: nodes order bundles by (revision, epoch)."""
    for certificate in (state.live, state.previous):
        for pair in certificate.pairs if certificate else ():
            if pair.pair_id == asked.pair_id and pair.sealed_key.epoch == asked.old_epoch < asked.sealed_key.epoch:
                event = Resealed(asked.cause, asked.pair_id, asked.sealed_key, state.revision, shown=False)
                shown = state.live is not None and _epoch(_resealed(state.live, event)) > state.live.epoch
                return [replace(event, shown=shown), _applied(asked.cause, state.revision)]
    return [_refused(asked.cause, finding(Code.PAIR_CHANGED))]


def _suspend(state: Domain, cause: Cause, suspended: bool, revision: int) -> list[Event]:
    if state.suspended == suspended:
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    moved = None if state.live is None else revision
    return [SuspensionChanged(cause, suspended, moved), _applied(cause, moved or state.revision)]


def _answer(state: Domain | None, asked: Judged | Timeout, revision: int) -> list[Event]:
    """Only the pending submission is answered: a late or second verdict finds nothing to end."""
    if state is None or state.pending is None or state.pending.cause.command_id != asked.submission_id:
        return []
    cause = state.pending.cause
    ended: list[Event] = [JudgingEnded(asked.submission_id)]
    if isinstance(asked, Timeout):
        return [*ended, Settled(cause, Outcome.UNDECIDED, (finding(Code.SUBMISSION_UNDECIDED),))]
    if not asked.pairs:
        return [*ended, Settled(cause, Outcome.REFUSED, asked.findings)]
    if state.live is not None and _identity(asked.pairs) == _identity(state.live.pairs):
        return [*ended, Settled(cause, Outcome.UNCHANGED, asked.findings, state.revision)]
    change = "enabled" if state.live is None else "replaced"
    certificate = Certificate(asked.submission_id, asked.pairs)
    return [
        *ended, Installed(cause, certificate, revision, "enabled" if change == "enabled" else "replaced"),
        Settled(cause, Outcome.APPLIED, asked.findings, revision),
    ]


def _identity(pairs: Iterable[JudgedPair]) -> list[tuple[str, str]]:
    """The same leaves with the same chains are the same certificate: a leaf names its key."""
    return sorted((pair.leaf_fingerprint, pair.chain) for pair in pairs)


def _resealed(certificate: Certificate | None, event: Resealed) -> Certificate | None:
    if certificate is None:
        return None
    pairs = tuple(
        pair.model_copy(update={"sealed_key": event.sealed_key}) if pair.pair_id == event.pair_id else pair
        for pair in certificate.pairs
    )
    return replace(certificate, pairs=pairs)


def _epoch(certificate: Certificate | None) -> int:
    return 0 if certificate is None else certificate.epoch


def _bare(state: Domain, revision: int) -> Domain:
    """Nothing of a pair is left, and the settings that need one are off (rule B3)."""
    _rising(state, revision)
    return replace(state, live=None, previous=None, pending=None, settings=Settings(), revision=revision)


def _rising(state: Domain | None, revision: int) -> None:
    if state is not None and revision <= state.revision:
        raise ValueError(f"revision {revision} does not rise above {state.revision}")


def _applied(cause: Cause, revision: int) -> Settled:
    return Settled(cause, Outcome.APPLIED, revision=revision)


def _refused(cause: Cause, *findings: Finding) -> Settled:
    return Settled(cause, Outcome.REFUSED, findings)
