"""The state machine of one domain, as a table of stories, and what holds in every story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config.domain import bundle as bundles
from services.config.domain import domain_machine, scheduling
from services.config.domain.commands import (
    DomainCommand,
    JudgingResult,
    JudgingTimeout,
    ResumeCommand,
    SuspendCommand,
)
from services.config.domain.events import Event, Installed, Settled
from services.config.domain.model import CommandContext, Domain
from shared.contracts.domains import DomainState, Outcome, RedirectMode, Settings
from shared.contracts.edge import Bundle, BundleKind
from shared.contracts.findings import Code, finding
from tests.unit.config.made import (
    OWNER,
    accept,
    cause,
    change,
    context,
    deploy,
    disable,
    kept,
    redirect,
    refuse,
    register,
    remove,
    reseal,
    submit,
)

HSTS = {"max_age": 60}
ENABLED = (register(), submit("s1"), accept("s1"))


def decide(
    state: Domain | None, asked: DomainCommand | JudgingResult, context: CommandContext
) -> list[Event]:
    """A command ends what it overtakes; a verdict overtakes nothing."""
    if isinstance(asked, JudgingResult):
        return domain_machine.decide(state, asked, context)
    return scheduling.decide_now(domain_machine, state, asked, context)


def evolve_all(state: Domain | None, events: Sequence[Event]) -> Domain | None:
    return scheduling.evolve_all(domain_machine, state, events)


def play(
    story: Sequence[DomainCommand | JudgingResult], **known: Any
) -> tuple[Domain | None, list[Event]]:
    state: Domain | None = None
    told: list[Event] = []
    for revision, asked in enumerate(story, start=1):
        events = decide(state, asked, context(revision, **known))
        state = evolve_all(state, events)
        told += events
    return state, told


def outcomes(events: Sequence[Event]) -> list[str]:
    return [
        f"{one.cause.command_id} {one.outcome}"
        + "".join(f" {found.code}" for found in one.findings)
        for one in events
        if isinstance(one, Settled)
    ]


@pytest.mark.parametrize(
    ("sentence", "story", "ends"),
    [
        ("a registration is applied", [register()], ["r applied"]),
        (
            "the same registration again changes nothing",
            [register(), register("r2")],
            ["r applied", "r2 unchanged"],
        ),
        (
            "another service type is another registration",
            [register(), register("r2", service_type="download")],
            ["r applied", "r2 refused domain.taken"],
        ),
        (
            "another account's is refused",
            [register(), register("r2", "mallory")],
            ["r applied", "r2 refused domain.taken"],
        ),
        ("an accepted submission enables", ENABLED, ["r applied", "s1 applied"]),
        (
            "a refused one says why",
            [register(), submit("s1"), refuse("s1", finding(Code.KEY_MISMATCH))],
            ["r applied", "s1 refused key.mismatch"],
        ),
        (
            "a second verdict finds nothing to end",
            [*ENABLED, refuse("s1")],
            ["r applied", "s1 applied"],
        ),
        (
            "a verdict on another submission is dropped",
            [register(), submit("s1"), accept("other")],
            ["r applied"],
        ),
        (
            "a late verdict is dropped",
            [register(), submit("s1"), JudgingTimeout("s1"), accept("s1")],
            ["r applied", "s1 undecided submission.undecided"],
        ),
        (
            "a later submission supersedes",
            [register(), submit("s1"), submit("s2"), accept("s1"), accept("s2")],
            ["r applied", "s1 superseded submission.superseded", "s2 applied"],
        ),
        (
            "a disable supersedes",
            [*ENABLED, submit("s2"), disable(), accept("s2")],
            ["r applied", "s1 applied", "s2 superseded submission.superseded", "d applied"],
        ),
        (
            "a removal supersedes",
            [register(), submit("s1"), remove(), accept("s1")],
            ["r applied", "s1 superseded submission.superseded", "x applied"],
        ),
        (
            "a deployment of what is not there does not",
            [register(), submit("s1"), deploy("d", None), accept("s1")],
            ["r applied", "d refused certificate.unknown", "s1 applied"],
        ),
        (
            "nor one of other names",
            [register(), submit("s1"), deploy("d", kept(sans=["*.other.com"])), accept("s1")],
            ["r applied", "d refused domain.mismatch", "s1 applied"],
        ),
        (
            "a foreign disable does not",
            [register(), submit("s1"), disable("d", "mallory"), accept("s1")],
            ["r applied", "d refused domain.unknown", "s1 applied"],
        ),
        (
            "a disable without HTTPS changes nothing",
            [register(), disable()],
            ["r applied", "d unchanged"],
        ),
        ("nothing can be done before a registration", [disable()], ["d refused domain.unknown"]),
        (
            "nor after a removal",
            [register(), remove(), disable()],
            ["r applied", "x applied", "d refused domain.unknown"],
        ),
        (
            "but a registration by another account",
            [register(), remove(), register("r2", "other")],
            ["r applied", "x applied", "r2 applied"],
        ),
        (
            "settings need HTTPS",
            [register(), redirect("to_https")],
            ["r applied", "c refused https.not_enabled"],
        ),
        (
            "the same settings change nothing",
            [*ENABLED, redirect("off")],
            ["r applied", "s1 applied", "c unchanged"],
        ),
        (
            "a redirect to HTTP excludes HSTS",
            [*ENABLED, change(hsts=HSTS), redirect("to_http", "c2")],
            ["r applied", "s1 applied", "c applied", "c2 refused settings.conflict"],
        ),
        (
            "and the other way round",
            [*ENABLED, redirect("to_http"), change("c2", hsts=HSTS)],
            ["r applied", "s1 applied", "c applied", "c2 refused settings.conflict"],
        ),
        (
            "HSTS can be switched off with it",
            [*ENABLED, change(hsts=HSTS), change("c2", hsts="off", redirect={"mode": "to_http"})],
            ["r applied", "s1 applied", "c applied", "c2 applied"],
        ),
        (
            "TLS versions are one range",
            [*ENABLED, change(tls_min="1.3", tls_max="1.2")],
            ["r applied", "s1 applied", "c refused settings.conflict"],
        ),
        (
            "a reseal compares the old epoch",
            [*ENABLED, reseal("pair-leaf", 2, 3)],
            ["r applied", "s1 applied", "s refused pair.changed"],
        ),
        (
            "and sets the new one once",
            [*ENABLED, reseal("pair-leaf", 1, 2), reseal("pair-leaf", 1, 2, "again")],
            ["r applied", "s1 applied", "s applied", "again refused pair.changed"],
        ),
        (
            "never to an older one",
            [*ENABLED, reseal("pair-leaf", 1, 1)],
            ["r applied", "s1 applied", "s refused pair.changed"],
        ),
        (
            "the same certificate again changes nothing",
            [*ENABLED, submit("s2"), accept("s2")],
            ["r applied", "s1 applied", "s2 unchanged"],
        ),
        (
            "a suspension twice is one",
            [*ENABLED, SuspendCommand(cause("o")), SuspendCommand(cause("o2"))],
            ["r applied", "s1 applied", "o applied", "o2 unchanged"],
        ),
    ],
)
def test_every_command_ends_as_the_rules_say(
    sentence: str, story: list[DomainCommand | JudgingResult], ends: list[str]
) -> None:
    assert outcomes(play(story)[1]) == ends, sentence


def test_a_registration_beside_another_accounts_wildcard_is_refused() -> None:
    _, events = play([register()], holders=frozenset({"mallory"}))
    assert outcomes(events) == ["r refused domain.taken"]
    _, events = play([register()], holders=frozenset({OWNER}))
    assert outcomes(events) == ["r applied"]


def test_a_refused_submission_leaves_the_live_certificate() -> None:
    before, _ = play(ENABLED)
    after, _ = play([*ENABLED, submit("s2"), refuse("s2")])
    assert before is not None and after is not None
    assert (after.live, after.revision) == (before.live, before.revision)


def test_a_replacement_keeps_the_certificate_before_for_a_rollback() -> None:
    state, _ = play([*ENABLED, submit("s2"), accept("s2", "new")])
    assert state is not None and state.live is not None and state.previous is not None
    assert (state.live.submission_id, state.previous.submission_id) == ("s2", "s1")


def test_a_disable_drops_all_of_the_pair_and_what_needs_it() -> None:
    settings = change(http2=True, hsts=HSTS)
    state, _ = play(
        [*ENABLED, submit("s2"), accept("s2", "new"), settings, submit("s3"), disable()]
    )
    assert state is not None
    assert (state.live, state.previous, state.pending, state.settings) == (
        None,
        None,
        None,
        Settings(),
    )


def test_a_change_touches_only_what_it_names() -> None:
    state, _ = play(
        [
            *ENABLED,
            change(http2=True),
            redirect("to_https", "c2"),
            change("c3", redirect={"status": 308}),
        ]
    )
    assert state is not None
    settings = state.settings
    assert (settings.http2, settings.redirect.mode, settings.redirect.status) == (
        True,
        RedirectMode.TO_HTTPS,
        308,
    )


def test_a_suspension_shows_no_pair_and_outlives_a_disable() -> None:
    state, _ = play([*ENABLED, SuspendCommand(cause("o"))])
    assert state is not None and state.live is not None
    bundle = Bundle.model_validate_json(bundles.build_bundle(state).payload)
    assert (state.state, bundle.kind, bundle.pairs) == (
        DomainState.SUSPENDED,
        BundleKind.SUSPENDED,
        [],
    )
    state, _ = play([*ENABLED, SuspendCommand(cause("o")), disable(), submit("s2"), accept("s2")])
    assert state is not None and state.state is DomainState.SUSPENDED
    state, _ = play([*ENABLED, SuspendCommand(cause("o")), ResumeCommand(cause("o2"))])
    assert state is not None and state.state is DomainState.ENABLED


def test_the_epoch_of_a_bundle_rises_when_the_last_of_its_keys_was_sealed_anew() -> None:
    two = [register(), submit("s1"), accept("s1", "rsa", "ecdsa")]
    state, events = play([*two, reseal("pair-rsa", 1, 2)])
    assert state is not None and bundles.build_bundle(state).epoch == 1
    assert [one.shown for one in events if hasattr(one, "shown")] == [False]
    state, events = play([*two, reseal("pair-rsa", 1, 2), reseal("pair-ecdsa", 1, 2)])
    assert state is not None and (bundles.build_bundle(state).epoch, state.revision) == (2, 3)
    assert [one.shown for one in events if hasattr(one, "shown")] == [False, True]


def test_a_revision_that_does_not_rise_is_a_bug() -> None:
    state, _ = play(ENABLED)
    with pytest.raises(ValueError, match="does not rise"):
        evolve_all(state, decide(state, disable(), context(3)))


# --- What holds in every story ---

ACCOUNTS = st.sampled_from([OWNER, OWNER, OWNER, "mallory"])
MODES = st.sampled_from(["off", "to_https", "to_http"])
STEPS = st.one_of(
    ACCOUNTS.map(lambda account: ("register", account)),
    ACCOUNTS.map(lambda account: ("submit", account)),
    ACCOUNTS.map(lambda account: ("disable", account)),
    ACCOUNTS.map(lambda account: ("remove", account)),
    st.tuples(st.just("redirect"), MODES),
    st.tuples(st.just("accept"), st.integers(0, 3)),
    st.tuples(st.just("refuse"), st.integers(0, 3)),
    st.tuples(st.just("timeout"), st.integers(0, 3)),
    st.tuples(st.just("reseal"), st.integers(1, 3)),
    st.tuples(st.just("deploy"), st.sampled_from(["wild", "unknown", "other", "private"])),
    st.tuples(st.just("trust"), st.sampled_from(["public", "private"])),
    st.just(("taken", OWNER)),
)


STORED = {
    "wild": kept(),
    "unknown": None,
    "other": kept(sans=["*.other.com"]),
    "private": replace(kept(), trust="private"),
}
TAKEN = "another's"
KNOWN = frozenset({(OWNER, TAKEN)})


def asked_for(
    step: tuple[str, Any], number: int, submissions: list[str]
) -> DomainCommand | JudgingResult | None:
    kind, detail = step
    identity = f"{kind}-{number}"
    if kind in ("accept", "refuse", "timeout"):
        if not submissions:
            return None
        of = submissions[-1 - detail % len(submissions)]
        answers = {"accept": accept(of, of), "refuse": refuse(of), "timeout": JudgingTimeout(of)}
        return answers[kind]
    if kind in ("submit", "taken"):
        submissions.append(identity)
    made: dict[str, Any] = {
        "register": lambda: register(identity, detail),
        "submit": lambda: submit(identity, detail),
        "disable": lambda: disable(identity, detail),
        "remove": lambda: remove(identity, detail),
        "redirect": lambda: redirect(detail, identity),
        "taken": lambda: replace(submit(identity, detail), name=TAKEN),
        "trust": lambda: change(identity, trust=detail),
        "deploy": lambda: deploy(identity, STORED[detail]),
        "reseal": lambda: reseal(
            f"pair-{submissions[-1] if submissions else 'none'}", detail, detail + 1, identity
        ),
    }
    built: DomainCommand = made[kind]()
    return built


@given(st.lists(STEPS, max_size=40))
def test_in_every_story_revisions_grow_pairs_die_at_disable_and_nothing_overtaken_is_applied(
    steps: list[tuple[str, Any]],
) -> None:
    state: Domain | None = None
    submissions: list[str] = []
    ended: dict[str, int] = {}
    overtaken: set[str] = set()
    highest = 0
    for number, step in enumerate(steps, start=1):
        asked = asked_for(step, number, submissions)
        if asked is None:
            continue
        before = state
        events = decide(state, asked, context(number, taken=KNOWN))
        if (
            state is not None
            and state.pending is not None
            and scheduling.supersede_pending(state) == events[:2]
        ):
            overtaken.add(state.pending.cause.command_id)
            assert not [
                one
                for one in events[2:]
                if isinstance(one, Settled) and one.outcome is Outcome.REFUSED
            ]
        state = evolve_all(state, events)
        for event in events:
            if isinstance(event, Settled):
                ended[event.cause.command_id] = ended.get(event.cause.command_id, 0) + 1
            if isinstance(event, Installed):
                assert event.certificate.submission_id not in overtaken
        if state is not None:
            assert state.revision >= highest
            if before is not None and state.live != before.live and step[0] != "reseal":
                assert state.revision > before.revision
            highest = state.revision
            if state.removed or state.live is None:
                assert (state.previous, state.settings) == (None, Settings())
            if step[0] in ("disable", "remove") and step[1] == state.account:
                assert state.pending is None and "chain of" not in repr(state)
    assert set(ended.values()) <= {1}
    waiting = (
        {state.pending.cause.command_id}
        if state is not None and state.pending is not None
        else set()
    )
    assert not waiting & set(ended)


def test_a_name_that_is_taken_in_another_account_is_free_in_this_one() -> None:
    known = frozenset({("mallory", TAKEN)})
    state, _ = play([register(), replace(submit("s1"), name=TAKEN), accept("s1")], taken=known)
    assert state is not None and state.live is not None
