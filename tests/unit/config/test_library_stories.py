"""What holds in every story of a library and two domains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.config.domain import domain_machine, history_codec, library_entry, scheduling
from services.config.domain.commands import (
    DomainCommand,
    JudgingResult,
    JudgingTimeout,
    LibraryCommand,
    ResealCommand,
    UpdateFromLibrary,
)
from services.config.domain.events import (
    DeploymentResolved,
    Event,
    Installed,
    Settled,
    Stored,
)
from services.config.domain.model import Certificate, Domain, LibraryEntry
from shared.contracts.base import SealedKey
from shared.contracts.domains import Outcome, Settings
from tests.unit.config.made import (
    OWNER,
    TITLE,
    accept,
    cause,
    context,
    deploy,
    disable,
    redirect,
    refuse,
    register,
    remove,
    submit,
)
from tests.unit.config.test_library import back, delete, resolve, store
from tests.unit.config.test_machine import decide, outcomes


@dataclass
class World:
    """A library entry and two domains, and everything that happened to them."""

    entry: LibraryEntry | None = None
    domains: dict[str, Domain | None] = field(default_factory=lambda: {"a": None, "b": None})
    shelf: list[Event] = field(default_factory=list)
    events: dict[str, list[Any]] = field(default_factory=lambda: {"a": [], "b": []})
    revision: int = 0
    overtaken: set[str] = field(default_factory=set)

    def at_shelf(self, asked: LibraryCommand | JudgingResult) -> None:
        if self.entry is not None and self.entry.pending is not None:
            if isinstance(asked, JudgingResult):
                pass
            elif library_entry.overtakes(self.entry, asked, context()):
                self.overtaken.add(self.entry.pending.cause.command_id)
                self._shelve(scheduling.supersede_pending(self.entry))
            else:
                return
        users = tuple(
            name for name, state in self.domains.items() if state and self._from_shelf(state.live)
        )
        spare = tuple(
            name
            for name, state in self.domains.items()
            if state and self._from_shelf(state.previous)
        )
        events = library_entry.decide(self.entry, asked, context(users=users, kept_by=spare))
        self._shelve(events)
        for event in events:
            if isinstance(event, DeploymentResolved):
                for name in self.domains:
                    current = self.entry.certificate if self.entry and event.entry else None
                    self.at_domain(name, deploy(event.cause.command_id, current))
            if isinstance(event, Stored) and event.replaces and event.certificate.entry:
                for name in users:
                    self.at_domain(
                        name,
                        UpdateFromLibrary(event.cause, event.certificate.entry, event.certificate),
                    )

    def at_domain(self, name: str, asked: DomainCommand | JudgingResult) -> None:
        state = self.domains[name]
        self.revision += 1
        if (
            state is not None
            and state.pending
            and not isinstance(asked, JudgingResult)
            and domain_machine.overtakes(state, asked, context())
        ):
            self.overtaken.add(state.pending.cause.command_id)
        events = decide(state, asked, context(self.revision))
        self.events[name] += events
        self.domains[name] = scheduling.evolve_all(domain_machine, state, events)

    def _from_shelf(self, certificate: Certificate | None) -> bool:
        return (
            certificate is not None
            and certificate.entry is not None
            and certificate.entry == (self.entry.id if self.entry else None)
        )

    def _shelve(self, events: list[Event]) -> None:
        self.shelf += events
        self.entry = scheduling.evolve_all(library_entry, self.entry, events)


SUBMISSIONS = st.integers(0, 4)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["store", "overwrite", "delete", "deploy"]), st.just(0)),
    st.tuples(
        st.sampled_from(["shelf-accept", "shelf-refuse", "shelf-timeout", "shelf-reseal"]),
        SUBMISSIONS,
    ),
    st.tuples(
        st.sampled_from(["register", "submit", "disable", "remove", "back", "redirect"]),
        st.integers(0, 1),
    ),
    st.tuples(st.sampled_from(["accept", "refuse"]), SUBMISSIONS),
    st.tuples(st.just("again"), SUBMISSIONS),
)


def play_world(steps: Sequence[tuple[int, tuple[str, int]]]) -> World:
    """``steps`` with their numbers, which make the ids."""
    world, stored, submitted = World(), [], []
    for number, (kind, detail) in steps:
        identity, domain = f"{kind}-{number}", "ab"[detail % 2]
        if kind in ("store", "overwrite"):
            stored.append(identity)
            world.at_shelf(store(identity, overwrite=kind == "overwrite"))
        elif kind.startswith("shelf") and stored:
            of = stored[-1 - detail % len(stored)]
            world.at_shelf(
                {
                    "shelf-accept": accept(of, of),
                    "shelf-refuse": refuse(of),
                    "shelf-timeout": JudgingTimeout(of),
                    "shelf-reseal": ResealCommand(
                        cause(identity), f"pair-{of}", 1, SealedKey(epoch=2, box="bmV3")
                    ),
                }[kind]
            )
        elif kind == "delete":
            world.at_shelf(delete(identity))
        elif kind == "deploy":
            world.at_shelf(resolve(identity))
        elif kind in ("accept", "refuse", "again") and submitted:
            of, where = submitted[-1 - detail % len(submitted)]
            world.at_domain(where, refuse(of) if kind == "refuse" else accept(of, of))
        elif kind in ("register", "submit", "disable", "remove", "back", "redirect"):
            if kind == "submit":
                submitted.append((identity, domain))
            world.at_domain(
                domain,
                {
                    "register": register,
                    "submit": submit,
                    "disable": disable,
                    "remove": remove,
                    "back": back,
                    "redirect": lambda id: redirect("to_https", id),
                }[kind](identity),
            )
    return world


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=40))
def test_with_a_library_revisions_grow_no_overtaken_is_applied_and_history_rebuilds_the_rows(
    steps: list[tuple[str, int]],
) -> None:
    world = play_world(list(enumerate(steps)))
    assert scheduling.evolve_all(library_entry, None, world.shelf) == world.entry
    for name, events in world.events.items():
        state: Domain | None = None
        for event in events:
            after = domain_machine.evolve(state, event)
            assert state is None or after is None or after.revision >= state.revision
            if isinstance(event, Installed):
                assert event.certificate.submission_id not in world.overtaken
                assert after is not None and state is not None and after.revision > state.revision
            if after is not None and after.live is None:
                assert (
                    after.previous is None
                    and after.settings == Settings()
                    and "chain of" not in repr(after)
                )
            state = after
        assert state == world.domains[name]
        used = (
            [one for one in (state.live, state.previous) if one and one.source == "stored"]
            if state
            else []
        )
        assert all(world.entry is not None and one.entry == world.entry.id for one in used)
        ended = [event.cause.command_id for event in events if isinstance(event, Settled)]
        assert len(ended) == len(set(ended))
    stored = [event.certificate.submission_id for event in world.shelf if isinstance(event, Stored)]
    assert not world.overtaken & set(stored)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_what_the_history_keeps_rebuilds_the_rows_but_for_the_pairs(
    steps: list[tuple[str, int]],
) -> None:
    world = play_world(list(enumerate(steps)))
    for name, events in world.events.items():
        state: Domain | None = None
        for event in _through_json(events):
            state = domain_machine.evolve(state, event)
        assert state == _bare(world.domains[name])
    entry: LibraryEntry | None = None
    for event in _through_json(world.shelf):
        entry = library_entry.evolve(entry or LibraryEntry(OWNER, TITLE, "public"), event)
    before = (
        replace(world.entry, pending=None, pending_trust="public")
        if world.entry and world.entry.certificate
        else None
    )
    assert entry == (
        replace(before, certificate=_without_pairs(before.certificate)) if before else None
    )


def _through_json(events: Sequence[Any]) -> list[Any]:
    """What is kept of the events, as it comes back."""
    return [
        history_codec.decode_event(json.loads(history_codec.encode_event(event)), event.cause)
        for event in events
        if isinstance(event, history_codec.RecordedEvent)
    ]


def _bare(state: Domain | None) -> Domain | None:
    if state is None:
        return None
    live, previous = _without_pairs(state.live), _without_pairs(state.previous)
    return replace(state, live=live, previous=previous, pending=None)


def _without_pairs(certificate: Certificate | None) -> Certificate | None:
    return None if certificate is None else replace(certificate, pairs=())


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=30))
def test_verdicts_that_come_again_change_nothing(steps: list[tuple[str, int]]) -> None:
    """The state depends only on the order of the commands and of the first verdicts."""
    verdicts = ("accept", "refuse", "shelf-accept", "shelf-refuse", "shelf-timeout")
    numbered = list(enumerate(steps))
    doubled = [
        one
        for number, step in numbered
        for one in [(number, step)] * (2 if step[0] in verdicts else 1)
    ]
    once, twice = play_world(numbered), play_world(doubled)
    assert (once.entry, outcomes(once.shelf)) == (twice.entry, outcomes(twice.shelf))
    for name, state in once.domains.items():
        assert _without_revision(state) == _without_revision(twice.domains[name])
        assert outcomes(once.events[name]) == outcomes(twice.events[name])


def _without_revision(state: Domain | None) -> Domain | None:
    """A decision that changes nothing leaves its number unused."""
    return None if state is None else replace(state, revision=0, registered_revision=0)


def test_an_outcome_is_named_for_every_step() -> None:
    story = [
        ("register", 0),
        ("store", 0),
        ("shelf-accept", 0),
        ("deploy", 0),
        ("overwrite", 0),
        ("shelf-accept", 0),
        ("back", 0),
        ("delete", 0),
    ]
    world = play_world(list(enumerate(story)))
    ends = [event.outcome for event in world.events["a"] if isinstance(event, Settled)]
    assert ends == [Outcome.APPLIED] * 4
    assert world.domains["a"] is not None and world.domains["a"].live is not None
    assert world.domains["a"].live.submission_id == "store-1"
