"""The messages that an event causes. Their ids derive from the command, so that a redelivery makes
the same messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.config.domain.events import (
    BundleChange,
    Disabled,
    Event,
    Installed,
    JudgingBegan,
    PairResealed,
    Registered,
    Removed,
    RolledBack,
    SettingsChanged,
    Settled,
    SuspensionChanged,
)
from services.config.domain.model import Cause, Certificate, CommandTarget, domain_target
from shared import catalogue
from shared.contracts.base import Contract
from shared.contracts.domains import CommandSettled, DomainChanged, DomainRegistered, DomainRemoved
from shared.contracts.judging import JudgeContext, JudgeSubmission
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing

SOURCE = "config"


def event_messages(target: CommandTarget, event: Event, at: datetime) -> list[Outgoing]:
    """Return the published events: ids, codes and revisions, nothing of a pair."""
    if isinstance(event, Settled):
        settled = _settled(target, event, at)
        return [_message(catalogue.EVENT_COMMAND_SETTLED, target, settled, event.cause, at)]
    if target.domain is None:
        return []
    return _domain_messages(target.domain, event, at)


def judging_question(
    target: CommandTarget,
    began: JudgingBegan,
    live: Certificate | None,
    private_roots: Sequence[str],
    at: datetime,
) -> Outgoing:
    """Return the question to the validator, which carries the sealed pair.

    ``live``: the certificate in use, whose names may get lost. ``private_roots``: the account's
    own, in PEM; with private trust and without roots no chain leads anywhere. A question for the
    library names no domain."""
    cause = began.pending.cause
    live_names: set[str] = set()
    for pair in live.pairs if live else ():
        live_names.update(pair.sans)
    context = JudgeContext(
        private_roots=None if began.trust == "public" else list(private_roots),
        live_names=sorted(live_names),
        strict=began.strict,
    )
    body = JudgeSubmission(
        submission_id=cause.command_id,
        account=cause.account,
        domains=[] if target.domain is None else [target.domain],
        pairs=list(began.pairs),
        context=context,
    )
    return outgoing(
        catalogue.JUDGE_SUBMISSION,
        body,
        source=SOURCE,
        about=target.domain or cause.account,
        at=at,
        id=began.pending.request_id,
        cause=cause.command_id,
        traceparent=cause.traceparent,
    )


def finding_codes(settled: Settled) -> list[str]:
    """Return each code once, in the order found."""
    return list(dict.fromkeys(found.code.value for found in settled.findings))


def _domain_messages(name: str, event: Event, at: datetime) -> list[Outgoing]:
    messages = []
    target = domain_target(name)
    if isinstance(event, Registered):
        registered = DomainRegistered(
            domain=name,
            account=event.cause.account,
            service_type=event.service_type,
            revision=event.revision,
            at=at,
        )
        subject = catalogue.EVENT_DOMAIN_REGISTERED
        messages.append(_message(subject, target, registered, event.cause, at))
    if isinstance(event, Removed):
        removed = DomainRemoved(
            domain=name, account=event.cause.account, revision=event.revision, at=at
        )
        subject = catalogue.EVENT_DOMAIN_REMOVED
        messages.append(_message(subject, target, removed, event.cause, at))
    # A registration and a removal are news of ownership (billing) and of the desired state (the
    # fleet): two messages.
    changed = _domain_changed(name, event)
    if changed is not None:
        cause, body = changed
        messages.append(_message(catalogue.EVENT_DOMAIN_CHANGED, target, body, cause, at))
    return messages


def _domain_changed(name: str, event: Event) -> tuple[Cause, DomainChanged] | None:
    """Return the change of the desired state with its cause, None where it stays as it was."""
    change: BundleChange
    match event:
        case Registered():
            change = "registered"
        case Installed():
            change = event.change
        case RolledBack():
            change = "rolled_back"
        case Disabled():
            change = "disabled"
        case SettingsChanged():
            change = "settings"
        case PairResealed() if event.shown:
            change = "resealed"
        case SuspensionChanged():
            change = "suspended" if event.suspended else "resumed"
        case Removed():
            change = "removed"
        case _:
            return None
    if event.revision is None:
        return None
    changed = DomainChanged(
        domain=name,
        account=event.cause.account,
        revision=event.revision,
        change=change,
        command_id=event.cause.command_id,
        submitted_at=event.cause.received_at,
    )
    return event.cause, changed


def _settled(target: CommandTarget, event: Settled, at: datetime) -> CommandSettled:
    return CommandSettled(
        command_id=event.cause.command_id,
        command=event.cause.command,
        domain=target.domain,
        certificate=target.certificate,
        account=event.cause.account,
        outcome=event.outcome,
        codes=finding_codes(event),
        revision=event.revision,
        at=at,
    )


def _message(
    subject: str, target: CommandTarget, body: Contract, cause: Cause, at: datetime
) -> Outgoing:
    identity = derived_id(cause.command_id, target.domain or "", target.certificate or "", subject)
    return outgoing(
        subject,
        body,
        source=SOURCE,
        about=target.domain or cause.account,
        at=at,
        id=identity,
        cause=cause.command_id,
        traceparent=cause.traceparent,
    )
