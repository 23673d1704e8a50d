"""The state machine of one entry of an account's certificate library (rules B9 to B11), like a
domain's. Pure.

An entry is judged once, for every name of its leaf. Deployments, and domains that follow an entry,
are decided domain by domain (services/config/domain/domain_machine.py), where what only time and
the domain decide is checked again. An entry takes no revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.config.domain import judging
from services.config.domain.commands import (
    DeleteCommand,
    InvalidCommand,
    JudgingResult,
    JudgingTimeout,
    LibraryCommand,
    ResealCommand,
    ResolveDeployment,
    StoreCommand,
    TargetVerdict,
)
from services.config.domain.events import (
    Deleted,
    DeploymentResolved,
    Event,
    JudgingBegan,
    JudgingEnded,
    PairResealed,
    Settled,
    Stored,
    applied,
    refused,
)
from services.config.domain.model import (
    Certificate,
    CommandContext,
    LibraryEntry,
    PendingSubmission,
)
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, Finding, finding

_NAMED_DOMAINS = 50
_MESSAGE_CHARACTERS = 4000


def decide(
    state: LibraryEntry | None, command: LibraryCommand | JudgingResult, context: CommandContext
) -> list[Event]:
    """Return what comes of a command or of the end of a judging."""
    match command:
        case InvalidCommand():
            return [refused(command.cause, *command.findings)]
        case TargetVerdict() | JudgingTimeout():
            return _end_judging(state, command, context)
        case StoreCommand():
            return [_store(state, command, context)]
        case DeleteCommand():
            return _delete(state, command, context)
        case ResolveDeployment():
            entry = None if state is None else state.id
            return [DeploymentResolved(command.cause, command.domains, entry)]
        case ResealCommand():
            return _reseal(state, command)


def overtakes(state: LibraryEntry | None, command: LibraryCommand, context: CommandContext) -> bool:
    """Return whether a command ends a store that is being judged: a store that may replace and is
    not refused at once, whatever the entry's state is."""
    return (
        isinstance(command, StoreCommand)
        and command.overwrite
        and not _name_is_taken(command, context)
    )


def must_wait(state: LibraryEntry | None, command: LibraryCommand, context: CommandContext) -> bool:
    """Return whether a deletion comes after a deployment that has not ended on every domain."""
    return isinstance(command, DeleteCommand) and context.unsettled


def evolve(state: LibraryEntry | None, event: Event) -> LibraryEntry | None:
    """Return the state after an event; None: there is no entry (any more)."""
    if isinstance(event, JudgingBegan):
        account = event.pending.cause.account
        before = state or LibraryEntry(account, event.pending.name, event.trust)
        return replace(before, pending=event.pending, pending_trust=event.trust)
    if state is None:
        return None
    match event:
        case JudgingEnded():
            return None if state.certificate is None else replace(state, pending=None)
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
            certificate = state.certificate.with_key(event.pair_id, event.sealed_key)
            return replace(state, certificate=certificate)
    return state


def _store(
    state: LibraryEntry | None, command: StoreCommand, context: CommandContext
) -> Settled | JudgingBegan:
    exists = state is not None and state.certificate is not None
    if _name_is_taken(command, context) or (exists and not command.overwrite):
        return refused(command.cause, finding(Code.CERTIFICATE_NAME_TAKEN, field="request"))
    pending = PendingSubmission(command.cause, command.request_id, command.name)
    return JudgingBegan(pending, command.pairs, command.trust, command.strict)


def _name_is_taken(command: StoreCommand, context: CommandContext) -> bool:
    return (command.cause.account, command.name) in context.taken


def _delete(
    state: LibraryEntry | None, command: DeleteCommand, context: CommandContext
) -> list[Event]:
    cause = command.cause
    if state is None or state.certificate is None:
        return [refused(cause, finding(Code.CERTIFICATE_UNKNOWN, field="request"))]
    if context.users or context.kept_by:
        return [refused(cause, _in_use(context))]
    return [Deleted(cause), applied(cause)]


def _in_use(context: CommandContext) -> Finding:
    """Return the finding that lists what uses the entry. A rollback would bring back as stored what
    the library has no more, so what is kept for one counts as in use."""
    sentences = []
    hint = ""
    if context.users:
        sentences.append(f"It serves {_list_domains(context.users)}.")
    else:
        hint = "Such a copy goes with the domain's next certificate change, and with a disable."
    if context.kept_by:
        sentences.append(f"Kept for a rollback by {_list_domains(context.kept_by)}.")
    message = " ".join(sentences)[:_MESSAGE_CHARACTERS]
    return finding(Code.CERTIFICATE_IN_USE, message, field="request", hint=hint)


def _list_domains(domains: Sequence[str]) -> str:
    named = f"{len(domains)} domains: {', '.join(domains[:_NAMED_DOMAINS])}"
    if len(domains) <= _NAMED_DOMAINS:
        return named
    return f"{named} and {len(domains) - _NAMED_DOMAINS} more"


def _reseal(state: LibraryEntry | None, command: ResealCommand) -> list[Event]:
    cause = command.cause
    new_epoch = command.sealed_key.epoch
    if state is None or state.certificate is None:
        return [refused(cause, finding(Code.PAIR_CHANGED))]
    if not state.certificate.can_reseal(command.pair_id, command.old_epoch, new_epoch):
        return [refused(cause, finding(Code.PAIR_CHANGED))]
    return [PairResealed(cause, command.pair_id, command.sealed_key), applied(cause)]


def _end_judging(
    state: LibraryEntry | None, result: JudgingResult, context: CommandContext
) -> list[Event]:
    pending = judging.find_pending(state, result)
    if state is None or pending is None:
        return []
    ended = JudgingEnded(result.submission_id)
    if isinstance(result, JudgingTimeout) or not result.pairs:
        return [ended, judging.settle_without_pairs(pending, result)]
    live = state.certificate
    entry = result.submission_id if live is None else live.entry
    certificate = Certificate(
        result.submission_id, result.pairs, "stored", state.name, entry, state.pending_trust
    )
    if live is not None and live.has_same_pairs(certificate) and live.trust == certificate.trust:
        return [ended, Settled(pending.cause, Outcome.UNCHANGED, result.findings)]
    # No JudgingEnded here: without a first certificate it would end the entry.
    return [
        Stored(pending.cause, certificate, context.at, replaces=live is not None),
        Settled(pending.cause, Outcome.APPLIED, result.findings),
    ]
