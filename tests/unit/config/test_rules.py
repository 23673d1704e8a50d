"""Rules of commands, by what they say outside: outcome, findings, events, bundle."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.config.domain import command_parser, library_entry, outgoing_messages, trust_roots
from services.config.domain.bundle import build_bundle
from services.config.domain.commands import (
    DomainCommand,
    InvalidCommand,
    JudgingResult,
    RollbackCommand,
)
from services.config.domain.events import Event, Installed, JudgingBegan, Settled
from services.config.domain.model import (
    CommandContext,
    CommandTarget,
    Domain,
    domain_target,
    library_key,
    library_target,
)
from shared import catalogue
from shared.contracts.base import Contract, SealedKey
from shared.contracts.certificates import SetRoots
from shared.contracts.commands import ChangeSettings, RegisterDomain, SubmittedPair
from shared.contracts.domains import DomainChanged, Origin, Outcome, RedirectMode
from shared.contracts.edge import Bundle
from shared.contracts.findings import Code
from shared.contracts.judging import JudgeSubmission
from tests.unit.config.made import (
    AT,
    NAME,
    ORIGIN,
    OWNER,
    TITLE,
    accept,
    cause,
    change,
    context,
    deploy,
    kept,
    redirect,
    register,
    submit,
)
from tests.unit.config.test_library import store
from tests.unit.config.test_machine import ENABLED, decide, evolve_all, play


def asked(subject: str, body: Contract) -> tuple[CommandTarget, DomainCommand]:
    """The one target of a command of a domain, and what the domain is asked."""
    parsed = command_parser.parse_command("a", subject, body.encode())
    (target,) = command_parser.find_targets(parsed)
    command = command_parser.to_domain_command(
        parsed, target, cause("a"), allow_private_origins=False
    )
    return target, command


def registration(domain: str, **others: Any) -> tuple[CommandTarget, DomainCommand]:
    fields = {"domain": domain, "account": OWNER, "service_type": "video", "origin": ORIGIN}
    body = RegisterDomain.model_validate({**fields, **others})
    return asked(catalogue.CMD_DOMAIN_REGISTER, body)


def settled(events: list[Event]) -> Settled:
    """The last end of a command."""
    return [event for event in events if isinstance(event, Settled)][-1]


def codes(events: list[Event]) -> list[Code]:
    return [found.code for found in settled(events).findings]


def changes(events: list[Event]) -> list[DomainChanged]:
    """The changes of the desired state that everybody is told."""
    found = []
    for event in events:
        for message in outgoing_messages.event_messages(domain_target(NAME), event, AT):
            if message.subject == catalogue.EVENT_DOMAIN_CHANGED:
                found.append(DomainChanged.model_validate_json(message.body))
    return found


def bundle(state: Domain | None) -> Bundle:
    assert state is not None
    return Bundle.model_validate_json(build_bundle(state).payload)


def go_on(
    state: Domain | None, command: DomainCommand | JudgingResult, **others: Any
) -> tuple[Domain | None, list[Event]]:
    """One more command, at the next revision."""
    revision = 1 if state is None else state.revision + 1
    events = decide(state, command, context(revision, **others))
    return evolve_all(state, events), events


def test_what_no_domain_can_be_is_refused_with_every_fault() -> None:
    target, command = registration("exa_mple.com")
    assert isinstance(command, InvalidCommand) and target.domain == "exa_mple.com"
    assert [found.message for found in command.findings] == ["At position 4: '_' is not allowed."]
    assert [found.code for found in command.findings] == [Code.DOMAIN_INVALID]
    inside = {"scheme": "http", "host": "127.0.0.1", "port": 80}
    _, command = registration(NAME, service_type="mining", origin=inside)
    assert isinstance(command, InvalidCommand)
    assert [found.code for found in command.findings] == [
        Code.ORIGIN_FORBIDDEN,
        Code.DOMAIN_SERVICE_TYPE_UNSUPPORTED,
    ]


def test_the_same_certificate_again_changes_nothing() -> None:
    state, _ = play([*ENABLED, submit("s2")])
    assert state is not None
    after, events = go_on(state, accept("s2"))
    assert (settled(events).outcome, settled(events).revision) == (
        Outcome.UNCHANGED,
        state.revision,
    )
    assert changes(events) == [] and bundle(after) == bundle(state)


def test_settings_need_https_and_change_only_what_they_name() -> None:
    state, events = play([register(), redirect("to_https")])
    assert codes(events) == [Code.HTTPS_NOT_ENABLED]
    state, _ = play(ENABLED)
    state, events = go_on(state, redirect("to_https"))
    applied = settled(events)
    state, events = go_on(state, redirect("to_https", "again"))
    assert (applied.outcome, settled(events).outcome) == (Outcome.APPLIED, Outcome.UNCHANGED)
    assert settled(events).revision == applied.revision
    shown = bundle(state)
    assert (shown.settings.redirect.mode, shown.settings.redirect.status) == (
        RedirectMode.TO_HTTPS,
        301,
    )
    assert len(shown.pairs) == 1


def test_settings_that_exclude_each_other_are_named() -> None:
    state, _ = play(ENABLED)
    _, events = go_on(state, change(tls_min="1.3", tls_max="1.2"))
    assert [found.message for found in settled(events).findings] == [
        "The lowest TLS version 1.3 is above the highest 1.2."
    ]


def test_the_origin_may_change_while_https_is_off_and_the_settings_may_not() -> None:
    state, _ = play([register()])
    origin = Origin(scheme="http", host="other.example.com", port=8080)
    _, events = go_on(state, change(origin=origin, http2=True))
    assert codes(events) == [Code.HTTPS_NOT_ENABLED]
    state, events = go_on(state, change(origin=origin))
    assert settled(events).outcome is Outcome.APPLIED
    assert bundle(state).origin == origin
    inside = Origin(scheme="http", host="10.0.0.1", port=80)
    body = ChangeSettings(domain=NAME, account=OWNER, origin=inside)
    _, command = asked(catalogue.CMD_SETTINGS_CHANGE, body)
    assert isinstance(command, InvalidCommand)
    assert [found.code for found in command.findings] == [Code.ORIGIN_FORBIDDEN]


def test_a_name_of_another_accounts_family_is_not_called_registered() -> None:
    _, events = go_on(None, register(), holders=frozenset({"mallory"}))
    (found,) = settled(events).findings
    assert found.code is Code.DOMAIN_TAKEN
    assert "another account holds one of them" in found.message and "account" in found.hint


def test_a_rollback_swaps_the_two_certificates_and_refuses_an_expired_one() -> None:
    back = RollbackCommand(cause("b", command=catalogue.CMD_CERTIFICATE_ROLLBACK))
    state, _ = play([register()])
    assert codes(go_on(state, back)[1]) == [Code.HTTPS_NOT_ENABLED]
    state, _ = play([register(), submit("s1"), accept("s1", "first")])
    assert codes(go_on(state, back)[1]) == [Code.CERTIFICATE_NO_PREVIOUS]
    state, _ = play(
        [register(), submit("s1"), accept("s1", "first"), submit("s2"), accept("s2", "second")]
    )
    for leaf in ("first", "second"):
        state, events = go_on(state, back)
        assert settled(events).outcome is Outcome.APPLIED
        assert [one.change for one in changes(events)] == ["rolled_back"]
        assert bundle(state).pairs[0].pair_id == f"pair-{leaf}"
    later = CommandContext(AT + timedelta(days=200), 99)
    assert codes(decide(state, back, later)) == [Code.CERTIFICATE_EXPIRED]


def test_a_deployment_tells_each_domain_its_own_findings() -> None:
    trusting, _ = play([register()])
    assert trusting is not None
    other = replace(trusting, name="www.other.org", trust="private")
    _, events = go_on(trusting, deploy("d", kept()))
    assert settled(events).findings == ()
    _, events = go_on(other, deploy("d", kept()))
    assert codes(events) == [Code.CHAIN_UNTRUSTED, Code.DOMAIN_MISMATCH]
    assert "private trust" in settled(events).findings[0].hint


def test_a_pair_judged_by_other_roots_is_not_deployed() -> None:
    state, _ = play([register()])
    _, events = go_on(state, deploy("d", replace(kept(), trust="private")))
    assert codes(events) == [Code.CHAIN_UNTRUSTED]
    assert not any(isinstance(event, Installed) for event in events)


def test_roots_that_cannot_be_taken_are_told_why() -> None:
    body = SetRoots(account=OWNER, roots="no PEM")
    (target,) = command_parser.find_targets(body)
    assert (target.domain, target.certificate) == (None, None)
    ended, _ = trust_roots.decide_roots(cause("a"), body.roots, [])
    assert ended.outcome is Outcome.REFUSED
    assert "0 PEM blocks were found" in ended.findings[0].message


@pytest.mark.parametrize("trust", ["public", "private"])
def test_the_question_for_the_library_names_no_domain(trust: Any) -> None:
    sealed = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=""))
    command = replace(store("a"), trust=trust, pairs=(sealed,))
    (began,) = library_entry.decide(None, command, context())
    assert isinstance(began, JudgingBegan)
    target = library_target(library_key(OWNER, TITLE))
    message = outgoing_messages.judging_question(target, began, kept(), ["root"], AT)
    question = JudgeSubmission.model_validate_json(message.body)
    assert question.domains == []
    assert question.context.live_names == ["*.example.com"]
    assert question.context.private_roots == (["root"] if trust == "private" else None)
