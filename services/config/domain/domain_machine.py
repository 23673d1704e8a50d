"""The state machine of one domain: ``decide(state, command) -> events``, ``evolve(state, event) ->
state``. Pure.

Every change takes the next global revision, handed in with the context.
"""

from __future__ import annotations

from dataclasses import replace

from services.config.domain import judging, names, reuse_checks, settings_rules
from services.config.domain.commands import (
    ChangeCommand,
    DeployCommand,
    DisableCommand,
    DomainCommand,
    InvalidCommand,
    JudgingResult,
    JudgingTimeout,
    RegisterCommand,
    RemoveCommand,
    ResealCommand,
    ResumeCommand,
    RollbackCommand,
    SubmitCommand,
    SuspendCommand,
    TargetVerdict,
    UpdateFromLibrary,
)
from services.config.domain.events import (
    Disabled,
    Event,
    FindingsDropped,
    Installed,
    JudgingBegan,
    JudgingEnded,
    PairResealed,
    Registered,
    Removed,
    RolledBack,
    SettingsChanged,
    Settled,
    SuspensionChanged,
    applied,
    refused,
    superseded,
    unchanged,
)
from services.config.domain.model import (
    Cause,
    Certificate,
    CommandContext,
    Domain,
    PendingSubmission,
)
from shared.contracts.domains import Outcome, Settings
from shared.contracts.findings import Code, Finding, finding


def decide(
    state: Domain | None, command: DomainCommand | JudgingResult, context: CommandContext
) -> list[Event]:
    """Return what comes of a command or of the end of a judging."""
    match command:
        case InvalidCommand():
            return [refused(command.cause, *command.findings)]
        case RegisterCommand():
            return _register(state, command, context)
        case TargetVerdict() | JudgingTimeout():
            return _end_judging(state, command, context)
    if state is None or not state.owned_by(command.cause.account):
        if isinstance(command, UpdateFromLibrary):
            return [superseded(command.cause)]
        return [refused(command.cause, finding(Code.DOMAIN_UNKNOWN))]
    return _decide_owned(state, command, context)


def overtakes(state: Domain | None, command: DomainCommand, context: CommandContext) -> bool:
    """Return whether a command ends a submission that is being judged, or a deployment that waits
    for the library: it settles the certificate anew and is not refused at once."""
    if state is None:
        return False
    match command:
        case SubmitCommand():
            return state.owned_by(command.cause.account) and not _name_is_taken(command, context)
        case DeployCommand():
            if command.stored is None or not state.owned_by(command.cause.account):
                return False
            findings = reuse_checks.find_faults(command.stored, state, context.at)
            return not reuse_checks.contains_refusal(findings)
        case DisableCommand() | RemoveCommand():
            return state.owned_by(command.cause.account)
    return False


def must_wait(state: Domain | None, command: DomainCommand, context: CommandContext) -> bool:
    """Return whether a deployment comes before the library has fixed what is deployed. A refusal
    needs no waiting."""
    if state is None or not isinstance(command, DeployCommand) or command.ready:
        return False
    return state.owned_by(command.cause.account)


def evolve(state: Domain | None, event: Event) -> Domain | None:
    """Return the state after an event.

    ValueError when a revision does not rise: that would be a bug, never an input."""
    if isinstance(event, Registered):
        _check_rising(state, event.revision)
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
            return replace(_without_https(state, event.revision), removed=True)
        case JudgingBegan():
            return replace(state, pending=event.pending)
        case JudgingEnded():
            return replace(state, pending=None)
        case Installed():
            _check_rising(state, event.revision)
            return replace(
                state, live=event.certificate, previous=state.live, revision=event.revision
            )
        case RolledBack():
            _check_rising(state, event.revision)
            return replace(state, live=state.previous, previous=state.live, revision=event.revision)
        case Disabled():
            return _without_https(state, event.revision)
        case SettingsChanged():
            _check_rising(state, event.revision)
            return replace(
                state,
                settings=event.settings,
                origin=event.origin,
                trust=event.trust,
                revision=event.revision,
            )
        case PairResealed():
            live = _with_key(state.live, event)
            return replace(state, live=live, previous=_with_key(state.previous, event))
        case SuspensionChanged():
            revision = state.revision if event.revision is None else event.revision
            return replace(state, suspended=event.suspended, revision=revision)
    return state


def _register(
    state: Domain | None, command: RegisterCommand, context: CommandContext
) -> list[Event]:
    cause = command.cause
    if state is not None and not state.removed:
        wanted = (cause.account, command.service_type, command.origin, command.trust)
        if wanted == (state.account, state.service_type, state.origin, state.trust):
            return [unchanged(cause, state.revision)]
        return [refused(cause, finding(Code.DOMAIN_TAKEN))]
    if context.holders - {cause.account}:
        message = (
            "A wildcard and the hosts under it belong to one account, and another "
            "account holds one of them."
        )
        hint = "Register it for that account, or choose another name."
        return [refused(cause, finding(Code.DOMAIN_TAKEN, message, hint=hint))]
    registered = Registered(
        cause,
        command.name,
        command.service_type,
        command.origin,
        command.trust,
        context.revision,
        context.at,
    )
    return [registered, applied(cause, context.revision)]


def _decide_owned(
    state: Domain,
    command: RemoveCommand
    | SubmitCommand
    | DeployCommand
    | UpdateFromLibrary
    | RollbackCommand
    | DisableCommand
    | ChangeCommand
    | ResealCommand
    | SuspendCommand
    | ResumeCommand,
    context: CommandContext,
) -> list[Event]:
    cause = command.cause
    revision = context.revision
    match command:
        case RemoveCommand():
            return [Removed(cause, revision), applied(cause, revision), FindingsDropped()]
        case SubmitCommand():
            return [_submit(state, command, context)]
        case DeployCommand():
            if command.stored is None:
                return [refused(cause, finding(Code.CERTIFICATE_UNKNOWN, field="request"))]
            return _use_stored(state, cause, command.stored, context)
        case UpdateFromLibrary():
            # A domain that has another certificate by now does not follow the entry.
            if command.stored is None or state.live is None or state.live.entry != command.entry:
                return [superseded(cause)]
            return _use_stored(state, cause, command.stored, context)
        case RollbackCommand():
            return _roll_back(state, cause, context)
        case DisableCommand():
            return [*_disable(state, cause, revision), FindingsDropped()]
        case ChangeCommand():
            return _change_settings(state, command, revision)
        case ResealCommand():
            return _reseal(state, command)
        case SuspendCommand():
            return _set_suspended(state, cause, True, revision)
        case ResumeCommand():
            return _set_suspended(state, cause, False, revision)


def _submit(
    state: Domain, command: SubmitCommand, context: CommandContext
) -> Settled | JudgingBegan:
    if _name_is_taken(command, context):
        return refused(command.cause, finding(Code.CERTIFICATE_NAME_TAKEN, field="request"))
    pending = PendingSubmission(command.cause, command.request_id, command.name)
    return JudgingBegan(pending, command.pairs, state.trust, command.strict)


def _name_is_taken(command: SubmitCommand, context: CommandContext) -> bool:
    return (command.cause.account, command.name) in context.taken


def _use_stored(
    state: Domain, cause: Cause, certificate: Certificate, context: CommandContext
) -> list[Event]:
    """Serve a certificate of the library. It was judged once; only time and names are checked
    again."""
    findings = reuse_checks.find_faults(certificate, state, context.at)
    if reuse_checks.contains_refusal(findings):
        return [refused(cause, *findings)]
    return _install(state, cause, certificate, tuple(findings), context.revision)


def _roll_back(state: Domain, cause: Cause, context: CommandContext) -> list[Event]:
    if state.live is None:
        return [refused(cause, finding(Code.HTTPS_NOT_ENABLED))]
    if state.previous is None:
        return [refused(cause, finding(Code.CERTIFICATE_NO_PREVIOUS))]
    findings = reuse_checks.find_faults(state.previous, state, context.at)
    if reuse_checks.contains_refusal(findings):
        return [refused(cause, *findings)]
    settled = Settled(cause, Outcome.APPLIED, tuple(findings), context.revision)
    return [RolledBack(cause, context.revision), settled]


def _install(
    state: Domain,
    cause: Cause,
    certificate: Certificate,
    findings: tuple[Finding, ...],
    revision: int,
) -> list[Event]:
    if state.live is not None and _is_same(state.live, certificate):
        return [Settled(cause, Outcome.UNCHANGED, findings, state.revision)]
    if not certificate.name:
        name = names.generate_certificate_name(state.name, certificate.submission_id)
        certificate = replace(certificate, name=name)
    settled = Settled(cause, Outcome.APPLIED, findings, revision)
    if state.live is None:
        return [Installed(cause, certificate, revision, "enabled"), settled]
    return [Installed(cause, certificate, revision, "replaced"), settled]


def _disable(state: Domain, cause: Cause, revision: int) -> list[Event]:
    if state.live is None:
        return [unchanged(cause, state.revision)]
    return [Disabled(cause, revision), applied(cause, revision)]


def _change_settings(state: Domain, command: ChangeCommand, revision: int) -> list[Event]:
    """Origin and trust may change at any time, the settings of HTTPS only while it is on."""
    cause = command.cause
    wanted = command.wanted
    if state.live is None and settings_rules.names_https(wanted):
        return [refused(cause, finding(Code.HTTPS_NOT_ENABLED))]
    missing = settings_rules.find_missing(state.settings, wanted)
    if missing:
        return [refused(cause, *missing)]
    settings = settings_rules.merge_settings(state.settings, wanted)
    origin = wanted.origin or state.origin
    trust = wanted.trust or state.trust
    if (settings, origin, trust) == (state.settings, state.origin, state.trust):
        return [unchanged(cause, state.revision)]
    conflicts = settings_rules.find_conflicts(settings)
    if conflicts:
        return [refused(cause, *conflicts)]
    warnings: list[Finding] = []
    if (settings, origin) != (state.settings, state.origin):
        warnings = settings_rules.find_warnings(settings, origin)
    return [
        SettingsChanged(cause, settings, origin, trust, revision),
        Settled(cause, Outcome.APPLIED, tuple(warnings), revision),
    ]


def _reseal(state: Domain, command: ResealCommand) -> list[Event]:
    """Compare the old epoch and set the new key. The revision stays: nodes order bundles by
    (revision, epoch)."""
    new_epoch = command.sealed_key.epoch
    for certificate in (state.live, state.previous):
        if certificate is None:
            continue
        if not certificate.can_reseal(command.pair_id, command.old_epoch, new_epoch):
            continue
        # The bundle's epoch is the lowest of its pairs, so it rises with the last of them only.
        shown = False
        if state.live is not None:
            resealed = state.live.with_key(command.pair_id, command.sealed_key)
            shown = resealed.epoch > state.live.epoch
        event = PairResealed(
            command.cause, command.pair_id, command.sealed_key, state.revision, shown
        )
        return [event, applied(command.cause, state.revision)]
    return [refused(command.cause, finding(Code.PAIR_CHANGED))]


def _set_suspended(state: Domain, cause: Cause, suspended: bool, revision: int) -> list[Event]:
    if state.suspended == suspended:
        return [unchanged(cause, state.revision)]
    if state.live is None:
        return [SuspensionChanged(cause, suspended, None), applied(cause, state.revision)]
    return [SuspensionChanged(cause, suspended, revision), applied(cause, revision)]


def _end_judging(
    state: Domain | None, result: JudgingResult, context: CommandContext
) -> list[Event]:
    pending = judging.find_pending(state, result)
    if state is None or pending is None:
        return []
    ended = JudgingEnded(result.submission_id)
    if isinstance(result, JudgingTimeout) or not result.pairs:
        return [ended, judging.settle_without_pairs(pending, result)]
    certificate = Certificate(
        result.submission_id, result.pairs, "custom", pending.name, trust=state.trust
    )
    installed = _install(state, pending.cause, certificate, result.findings, context.revision)
    return [ended, *installed]


def _is_same(live: Certificate, certificate: Certificate) -> bool:
    """Return whether the same pairs come from the same source under the same name. A certificate
    without a name asks for none."""
    return (
        live.has_same_pairs(certificate)
        and (live.source, live.entry) == (certificate.source, certificate.entry)
        and certificate.name in ("", live.name)
    )


def _with_key(certificate: Certificate | None, event: PairResealed) -> Certificate | None:
    if certificate is None:
        return None
    return certificate.with_key(event.pair_id, event.sealed_key)


def _without_https(state: Domain, revision: int) -> Domain:
    """Return the domain with nothing left of its pairs, and the settings that need one off (rule
    B3)."""
    _check_rising(state, revision)
    return replace(
        state, live=None, previous=None, pending=None, settings=Settings(), revision=revision
    )


def _check_rising(state: Domain | None, revision: int) -> None:
    if state is not None and revision <= state.revision:
        raise ValueError(f"revision {revision} does not rise above {state.revision}")
