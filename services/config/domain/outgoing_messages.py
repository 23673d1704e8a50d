"""The messages that an event causes, with ids that derive from its command: a redelivery makes the
same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.config.domain import judging
from services.config.domain.commands import (
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
from services.config.domain.library_entry import Entry, StoreBegan
from services.config.domain.model import Cause, Domain, Where
from shared import catalogue
from shared.contracts.base import Contract
from shared.contracts.domains import CommandSettled, DomainChanged, DomainRegistered, DomainRemoved
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing

SOURCE = "config"


def caused(where: Where, event: Event, at: datetime) -> list[Outgoing]:
    """Events for everybody: ids, codes and revisions, nothing of a pair."""
    if isinstance(event, Settled):
        return [
            _message(
                catalogue.EVENT_COMMAND_SETTLED, where, _settled(where, event, at), event.cause, at
            )
        ]
    return [] if where.domain is None else _of_domain(where.domain, event, at)


def _of_domain(name: str, event: Event, at: datetime) -> list[Outgoing]:
    found: list[tuple[str, Contract, Cause]] = []
    if isinstance(event, Registered):
        registered = DomainRegistered(
            domain=name,
            account=event.cause.account,
            service_type=event.service_type,
            revision=event.revision,
            at=at,
        )
        found.append((catalogue.EVENT_DOMAIN_REGISTERED, registered, event.cause))
    if isinstance(event, Removed):
        gone = DomainRemoved(
            domain=name, account=event.cause.account, revision=event.revision, at=at
        )
        found.append((catalogue.EVENT_DOMAIN_REMOVED, gone, event.cause))
    change = _change(event)
    if change is not None:
        found.append((catalogue.EVENT_DOMAIN_CHANGED, _changed(name, *change), change[1]))
    return [_message(subject, Where(name), body, cause, at) for subject, body, cause in found]


def question(domain: Domain, began: JudgingBegan, roots: Sequence[str], at: datetime) -> Outgoing:
    """What the validator is asked: carries the sealed pair."""
    cause = began.pending.cause
    return outgoing(
        catalogue.JUDGE_SUBMISSION,
        judging.request(domain, began, roots),
        source=SOURCE,
        about=domain.name,
        at=at,
        id=began.pending.request_id,
        cause=cause.command_id,
        traceparent=cause.traceparent,
    )


def store_question(
    entry: Entry | None, began: StoreBegan, roots: Sequence[str], at: datetime
) -> Outgoing:
    """The same for a pair that is to be kept in the library."""
    cause = began.pending.cause
    return outgoing(
        catalogue.JUDGE_SUBMISSION,
        judging.store_request(entry, began, roots),
        source=SOURCE,
        about=cause.account,
        at=at,
        id=began.pending.request_id,
        cause=cause.command_id,
        traceparent=cause.traceparent,
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
        domain=name,
        account=cause.account,
        revision=revision,
        change=move,
        command_id=cause.command_id,
        submitted_at=cause.received_at,
    )


def _settled(where: Where, event: Settled, at: datetime) -> CommandSettled:
    return CommandSettled(
        command_id=event.cause.command_id,
        command=event.cause.command,
        domain=where.domain,
        certificate=where.certificate,
        account=event.cause.account,
        outcome=event.outcome,
        codes=codes(event),
        revision=event.revision,
        at=at,
    )


def codes(event: Settled) -> list[str]:
    """Each code once, in the order found."""
    return list(dict.fromkeys(found.code.value for found in event.findings))


def _message(subject: str, where: Where, body: Contract, cause: Cause, at: datetime) -> Outgoing:
    identity = derived_id(cause.command_id, where.domain or "", where.certificate or "", subject)
    return outgoing(
        subject,
        body,
        source=SOURCE,
        about=where.domain or cause.account,
        at=at,
        id=identity,
        cause=cause.command_id,
        traceparent=cause.traceparent,
    )
