"""The state machine of one domain: ``decide(state, what is asked) -> events``, ``evolve(state,
event) -> state``. Pure.

Every change takes the next global revision, handed in; a decision that changes nothing leaves it
unused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from services.config.domain import names, reuse_checks, settings_rules
from services.config.domain.commands import (
    Change,
    Deploy,
    Disable,
    Disabled,
    Event,
    FindingsDropped,
    Follow,
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
    Rollback,
    RolledBack,
    SettingsChanged,
    Settled,
    Submit,
    Suspend,
    SuspensionChanged,
    Timeout,
)
from services.config.domain.model import Cause, Certificate, Domain, Known, Pending
from shared.contracts.domains import Outcome, Settings
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.judging import JudgedPair

Input = Order | Judged | Timeout | Suspend | Resume


def decide(
    state: Domain | None, asked: Input, *, revision: int, at: datetime, known: Known | None = None
) -> list[Event]:
    """What follows. ``revision``: the next number, above every one given before; ``known``: for
    Register."""
    match asked:
        case Hopeless():
            return [_refused(asked.cause, *asked.findings)]
        case Register():
            return _register(state, asked, revision, at, known or Known())
        case Judged() | Timeout():
            return _answer(state, asked, revision)
        case Follow() if state is None or not state.owned_by(asked.cause.account):
            return [_superseded(asked.cause)]
    if state is None or not state.owned_by(asked.cause.account):
        return [_refused(asked.cause, finding(Code.DOMAIN_UNKNOWN))]
    known = known or Known()
    before = (
        supersede(state) if state.pending and overtakes(state, asked, at=at, known=known) else []
    )
    return before + _owned(state, asked, revision, at, known)


def overtakes(state: Domain, asked: Input, *, at: datetime, known: Known) -> bool:
    """Whether it ends a submission that is being judged, or a deployment that waits for the
    library, instead of waiting itself: it settles the certificate anew and is not refused at
    once."""
    if not isinstance(asked, Submit | Deploy | Disable | Remove) or not state.owned_by(
        asked.cause.account
    ):
        return False
    match asked:
        case Submit():
            return not _is_taken(asked, known)
        case Deploy():
            return asked.stored is not None and not reuse_checks.refuses(
                reuse_checks.findings(asked.stored, state, at)
            )
    return True


def supersede(state: Domain) -> list[Event]:
    """The end of the pending submission, if there is one, because a later command overtook it."""
    if state.pending is None:
        return []
    cause = state.pending.cause
    return [JudgingEnded(cause.command_id), _superseded(cause)]


def evolve(state: Domain | None, event: Event) -> Domain | None:
    """The state after the event. ValueError when a revision does not rise: that would be a bug,
    never an input."""
    if isinstance(event, Registered):
        _rising(state, event.revision)
        return Domain(
            event.name,
            event.cause.account,
            event.service_type,
            event.origin,
            event.trust,
            event.revision,
            registered_revision=event.revision,
            registered_at=event.at,
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
            return replace(
                state, live=event.certificate, previous=state.live, revision=event.revision
            )
        case RolledBack():
            _rising(state, event.revision)
            return replace(state, live=state.previous, previous=state.live, revision=event.revision)
        case Disabled():
            return _bare(state, event.revision)
        case SettingsChanged():
            _rising(state, event.revision)
            return replace(
                state,
                settings=event.settings,
                origin=event.origin,
                trust=event.trust,
                revision=event.revision,
            )
        case Resealed():
            return replace(
                state, live=_resealed(state.live, event), previous=_resealed(state.previous, event)
            )
        case SuspensionChanged():
            revision = state.revision if event.revision is None else event.revision
            return replace(state, suspended=event.suspended, revision=revision)
        case FindingsDropped() | Settled():
            return state


def evolve_all(state: Domain | None, events: Iterable[Event]) -> Domain | None:
    for event in events:
        state = evolve(state, event)
    return state


def _register(
    state: Domain | None, asked: Register, revision: int, at: datetime, known: Known
) -> list[Event]:
    cause = asked.cause
    if state is not None and not state.removed:
        same = (state.account, state.service_type, state.origin, state.trust) == (
            cause.account,
            asked.service_type,
            asked.origin,
            asked.trust,
        )
        if same:
            return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
        return [_refused(cause, finding(Code.DOMAIN_TAKEN))]
    if known.holders - {cause.account}:
        message = (
            "A wildcard and the hosts under it belong to one account, and another "
            "account holds one of them."
        )
        hint = "Register it for that account, or choose another name."
        return [_refused(cause, finding(Code.DOMAIN_TAKEN, message, hint=hint))]
    return [
        Registered(cause, asked.name, asked.service_type, asked.origin, asked.trust, revision, at),
        _applied(cause, revision),
    ]


def _owned(
    state: Domain,
    asked: Remove
    | Submit
    | Deploy
    | Follow
    | Rollback
    | Disable
    | Change
    | Reseal
    | Suspend
    | Resume,
    revision: int,
    at: datetime,
    known: Known,
) -> list[Event]:
    cause = asked.cause
    match asked:
        case Remove():
            return [Removed(cause, revision), _applied(cause, revision), FindingsDropped()]
        case Submit() if _is_taken(asked, known):
            return [_refused(cause, finding(Code.CERTIFICATE_NAME_TAKEN, field="request"))]
        case Submit():
            return [
                JudgingBegan(
                    Pending(cause, asked.request_id, asked.name), asked.pairs, asked.strict
                )
            ]
        case Deploy():
            return _deploy(state, asked, revision, at)
        case Follow():
            return _follow(state, asked, revision, at)
        case Rollback():
            return _rollback(state, cause, revision, at)
        case Disable():
            return [*_disable(state, cause, revision), FindingsDropped()]
        case Change():
            return _change(state, asked, revision)
        case Reseal():
            return _reseal(state, asked)
        case Suspend() | Resume():
            return _suspend(state, cause, isinstance(asked, Suspend), revision)


def _is_taken(asked: Submit, known: Known) -> bool:
    return (asked.cause.account, asked.name) in known.taken


def _deploy(state: Domain, asked: Deploy, revision: int, at: datetime) -> list[Event]:
    if asked.stored is None:
        return [_refused(asked.cause, finding(Code.CERTIFICATE_UNKNOWN, field="request"))]
    return _use(state, asked.cause, asked.stored, revision, at)


def _follow(state: Domain, asked: Follow, revision: int, at: datetime) -> list[Event]:
    """A domain that has another certificate by now does not follow."""
    if asked.stored is None or state.live is None or state.live.entry != asked.entry:
        return [_superseded(asked.cause)]
    return _use(state, asked.cause, asked.stored, revision, at)


def _use(
    state: Domain, cause: Cause, certificate: Certificate, revision: int, at: datetime
) -> list[Event]:
    """Serve a certificate of the library; what was judged once is not judged again, but for time
    and name."""
    found = reuse_checks.findings(certificate, state, at)
    if reuse_checks.refuses(found):
        return [_refused(cause, *found)]
    return _install(state, cause, certificate, tuple(found), revision)


def _rollback(state: Domain, cause: Cause, revision: int, at: datetime) -> list[Event]:
    if state.live is None:
        return [_refused(cause, finding(Code.HTTPS_NOT_ENABLED))]
    if state.previous is None:
        return [_refused(cause, finding(Code.CERTIFICATE_NO_PREVIOUS))]
    found = reuse_checks.findings(state.previous, state, at)
    if reuse_checks.refuses(found):
        return [_refused(cause, *found)]
    return [RolledBack(cause, revision), Settled(cause, Outcome.APPLIED, tuple(found), revision)]


def _install(
    state: Domain, cause: Cause, certificate: Certificate, found: tuple[Finding, ...], revision: int
) -> list[Event]:
    if state.live is not None and _same(state.live, certificate):
        return [Settled(cause, Outcome.UNCHANGED, found, state.revision)]
    if not certificate.name:
        certificate = replace(certificate, name=names.given(state.name, certificate.submission_id))
    return [
        Installed(cause, certificate, revision, "enabled" if state.live is None else "replaced"),
        Settled(cause, Outcome.APPLIED, found, revision),
    ]


def _disable(state: Domain, cause: Cause, revision: int) -> list[Event]:
    if state.live is None:
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    return [Disabled(cause, revision), _applied(cause, revision)]


def _change(state: Domain, asked: Change, revision: int) -> list[Event]:
    """The origin and the trust may change at any time, the settings of HTTPS only while it is
    on."""
    cause, wanted = asked.cause, asked.wanted
    if state.live is None and settings_rules.names_https(wanted):
        return [_refused(cause, finding(Code.HTTPS_NOT_ENABLED))]
    missing = settings_rules.incomplete(state.settings, wanted)
    if missing:
        return [_refused(cause, *missing)]
    settings = settings_rules.merge(state.settings, wanted)
    origin, trust = wanted.origin or state.origin, wanted.trust or state.trust
    if (settings, origin, trust) == (state.settings, state.origin, state.trust):
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    conflicts = settings_rules.conflicts(settings)
    if conflicts:
        return [_refused(cause, *conflicts)]
    warned = (
        settings_rules.warnings(settings, origin)
        if (settings, origin) != (state.settings, state.origin)
        else []
    )
    return [
        SettingsChanged(cause, settings, origin, trust, revision),
        Settled(cause, Outcome.APPLIED, tuple(warned), revision),
    ]


def _reseal(state: Domain, asked: Reseal) -> list[Event]:
    """Compare and set. The revision stays: nodes order bundles by (revision, epoch)."""
    for certificate in (state.live, state.previous):
        for pair in certificate.pairs if certificate else ():
            if (
                pair.pair_id == asked.pair_id
                and pair.sealed_key.epoch == asked.old_epoch < asked.sealed_key.epoch
            ):
                event = Resealed(
                    asked.cause, asked.pair_id, asked.sealed_key, state.revision, shown=False
                )
                shown = (
                    state.live is not None
                    and _epoch(_resealed(state.live, event)) > state.live.epoch
                )
                return [replace(event, shown=shown), _applied(asked.cause, state.revision)]
    return [_refused(asked.cause, finding(Code.PAIR_CHANGED))]


def _suspend(state: Domain, cause: Cause, suspended: bool, revision: int) -> list[Event]:
    if state.suspended == suspended:
        return [Settled(cause, Outcome.UNCHANGED, revision=state.revision)]
    moved = None if state.live is None else revision
    return [SuspensionChanged(cause, suspended, moved), _applied(cause, moved or state.revision)]


def _answer(state: Domain | None, asked: Judged | Timeout, revision: int) -> list[Event]:
    """Only the pending submission is answered: a late or second verdict finds nothing to end."""
    if (
        state is None
        or state.pending is None
        or state.pending.cause.command_id != asked.submission_id
    ):
        return []
    cause = state.pending.cause
    ended: list[Event] = [JudgingEnded(asked.submission_id)]
    if isinstance(asked, Timeout):
        return [*ended, Settled(cause, Outcome.UNDECIDED, (finding(Code.SUBMISSION_UNDECIDED),))]
    if not asked.pairs:
        return [*ended, Settled(cause, Outcome.REFUSED, asked.findings)]
    certificate = Certificate(
        asked.submission_id, asked.pairs, "custom", state.pending.name, trust=state.trust
    )
    return [*ended, *_install(state, cause, certificate, asked.findings, revision)]


def _same(live: Certificate, certificate: Certificate) -> bool:
    """The same leaves with the same chains from the same source under the same name; no name asks
    for none."""
    return (
        _identity(live.pairs) == _identity(certificate.pairs)
        and (live.source, live.entry) == (certificate.source, certificate.entry)
        and certificate.name in ("", live.name)
    )


def _identity(pairs: Iterable[JudgedPair]) -> list[tuple[str, str]]:
    """The same leaves with the same chains are the same certificate: a leaf names its key."""
    return sorted((pair.leaf_fingerprint, pair.chain) for pair in pairs)


def _resealed(certificate: Certificate | None, event: Resealed) -> Certificate | None:
    if certificate is None:
        return None
    pairs = tuple(
        pair.model_copy(update={"sealed_key": event.sealed_key})
        if pair.pair_id == event.pair_id
        else pair
        for pair in certificate.pairs
    )
    return replace(certificate, pairs=pairs)


def _epoch(certificate: Certificate | None) -> int:
    return 0 if certificate is None else certificate.epoch


def _bare(state: Domain, revision: int) -> Domain:
    """Nothing of a pair is left, and the settings that need one are off (rule B3)."""
    _rising(state, revision)
    return replace(
        state, live=None, previous=None, pending=None, settings=Settings(), revision=revision
    )


def _rising(state: Domain | None, revision: int) -> None:
    if state is not None and revision <= state.revision:
        raise ValueError(f"revision {revision} does not rise above {state.revision}")


def _applied(cause: Cause, revision: int) -> Settled:
    return Settled(cause, Outcome.APPLIED, revision=revision)


def _refused(cause: Cause, *findings: Finding) -> Settled:
    return Settled(cause, Outcome.REFUSED, findings)


def _superseded(cause: Cause) -> Settled:
    return Settled(cause, Outcome.SUPERSEDED, (finding(Code.SUBMISSION_SUPERSEDED),))
