"""The messages that an event causes, with ids that derive from its command: a redelivery makes the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.config import judging
from services.config.library import MARK, Entry, StoreBegan, owner
from services.config.orders import (
    Disabled,
    Event,
    Installed,
    JudgingBegan,
    Moves,
    Registered,
    Removed,
    Resealed,
    RolledBack,
    SettingsChanged,
    Settled,
    SuspensionChanged,
)
from services.config.state import Cause, Domain
from shared import subjects
from shared.contracts.base import Contract
from shared.contracts.domains import CommandSettled, DomainChanged, DomainRegistered, DomainRemoved
from shared.ids import derived_id
from shared.messaging.cloudevents import Outgoing, outgoing

SOURCE = "config"


def caused(name: str, event: Event, at: datetime) -> list[Outgoing]:
    """Events for everybody: ids, codes and revisions, nothing of a pair."""
    found: list[tuple[str, Contract, Cause]] = []
    if isinstance(event, Settled):
        found.append((subjects.EVENT_COMMAND_SETTLED, _settled(name, event, at), event.cause))
    if isinstance(event, Registered):
        registered = DomainRegistered(
            domain=name, account=event.cause.account, service_type=event.service_type, revision=event.revision, at=at
        )
        found.append((subjects.EVENT_DOMAIN_REGISTERED, registered, event.cause))
    if isinstance(event, Removed):
        gone = DomainRemoved(domain=name, account=event.cause.account, revision=event.revision, at=at)
        found.append((subjects.EVENT_DOMAIN_REMOVED, gone, event.cause))
    change = _change(event)
    if change is not None:
        found.append((subjects.EVENT_DOMAIN_CHANGED, _changed(name, *change), change[1]))
    return [_message(subject, name, body, cause, at) for subject, body, cause in found]


def question(domain: Domain, began: JudgingBegan, roots: Sequence[str], at: datetime) -> Outgoing:
    """What the validator is asked: carries the sealed pair."""
    cause = began.pending.cause
    return outgoing(
        subjects.JUDGE_SUBMISSION, judging.request(domain, began, roots), source=SOURCE, about=domain.name, at=at,
        id=began.pending.request_id, cause=cause.command_id, traceparent=cause.traceparent,
    )


def store_question(entry: Entry | None, began: StoreBegan, roots: Sequence[str], at: datetime) -> Outgoing:
    """The same for a pair that is to be kept in the library."""
    cause = began.pending.cause
    return outgoing(
        subjects.JUDGE_SUBMISSION, judging.store_request(entry, began, roots), source=SOURCE, about=cause.account,
        at=at, id=began.pending.request_id, cause=cause.command_id, traceparent=cause.traceparent,
    )


def _change(event: Event) -> tuple[Moves, Cause, int] | None:
    """None where the desired state stays as it was."""
    match event:
        case Registered():
            return "registered", event.cause, event.revision
        case Installed():
            return event.change, event.cause, event.revision
        case RolledBack():
            return "rolled_back", event.cause, event.revision
        case Disabled():
            return "disabled", event.cause, event.revision
        case SettingsChanged():
            return "settings", event.cause, event.revision
        case Resealed() if event.shown:
            return "resealed", event.cause, event.revision
        case SuspensionChanged() if event.revision is not None:
            return "suspended" if event.suspended else "resumed", event.cause, event.revision
        case Removed():
            return "removed", event.cause, event.revision
    return None


def _changed(name: str, move: Moves, cause: Cause, revision: int) -> DomainChanged:
    return DomainChanged(
        domain=name, account=cause.account, revision=revision, change=move, command_id=cause.command_id,
        submitted_at=cause.received_at,
    )


def _settled(name: str, event: Settled, at: datetime) -> CommandSettled:
    domain, certificate = (None, owner(name)[1] or None) if name.startswith(MARK) else (name, None)
    return CommandSettled(
        command_id=event.cause.command_id, command=event.cause.command, domain=domain, certificate=certificate,
        account=event.cause.account, outcome=event.outcome, codes=codes(event), revision=event.revision, at=at,
    )


def codes(event: Settled) -> list[str]:
    """Each code once, in the order found."""
    return list(dict.fromkeys(found.code.value for found in event.findings))


def _message(subject: str, name: str, body: Contract, cause: Cause, at: datetime) -> Outgoing:
    return outgoing(
        subject, body, source=SOURCE, about=name, at=at, id=derived_id(cause.command_id, name, subject),
        cause=cause.command_id, traceparent=cause.traceparent,
    )
