"""The queue of a domain: what waits, what overtakes, and that it may be cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.config.domain import domain_machine, scheduling
from services.config.domain.commands import DomainCommand, TargetVerdict
from services.config.domain.events import Event, JudgingBegan, Settled
from services.config.domain.model import Domain
from shared import catalogue
from shared.contracts.domains import Outcome
from tests.unit.config.made import (
    NAME,
    accept,
    change,
    context,
    deploy,
    disable,
    kept,
    redirect,
    register,
    submit,
)
from tests.unit.config.test_machine import KNOWN, STEPS, asked_for, decide, evolve_all, outcomes


def run(
    state: Domain | None,
    commands: Sequence[DomainCommand],
    revisions: Sequence[int],
    **known: Any,
) -> scheduling.QueueResult[Domain]:
    return scheduling.run_queue(domain_machine, state, commands, context(**known), revisions)


@given(
    st.lists(STEPS.filter(lambda step: step[0] not in ("accept", "refuse", "timeout")), max_size=25)
)
def test_what_runs_at_once_ends_as_what_runs_one_by_one(steps: list[tuple[str, Any]]) -> None:
    """A replica may find a queue of any length: how it is cut changes nothing."""
    orders: list[Any] = [asked_for(step, number, []) for number, step in enumerate(steps, start=1)]
    whole = run(None, orders, range(1, 1000), taken=KNOWN)
    state: Domain | None = None
    queue: list[Any] = []
    told: list[Event] = []
    drawn = 0
    for order in orders:
        queue.append(order)
        numbers = range(drawn + 1, drawn + 1 + len(queue))
        drawn += len(queue)
        part = run(state, queue, numbers, taken=KNOWN)
        state, queue = part.state, queue[part.ran :]
        told += part.events
    assert outcomes(told) == outcomes(whole.events)
    assert len(queue) == len(orders) - whole.ran
    _overtaken_by_what_is_carried_out(whole.events)


def _overtaken_by_what_is_carried_out(events: Sequence[Event]) -> None:
    """Whatever was superseded: something that decides about the certificate came after it and was
    not refused."""
    deciding = {
        catalogue.CMD_CERTIFICATE_SUBMIT,
        catalogue.CMD_CERTIFICATE_DEPLOY,
        catalogue.CMD_HTTPS_DISABLE,
        catalogue.CMD_DOMAIN_REMOVE,
    }
    for place, event in enumerate(events):
        if not isinstance(event, Settled) or event.outcome is not Outcome.SUPERSEDED:
            continue
        after = events[place + 1 :]
        assert any(isinstance(one, JudgingBegan) for one in after) or any(
            isinstance(one, Settled)
            and one.cause.command in deciding
            and one.outcome is not Outcome.REFUSED
            for one in after
        )


def test_a_submission_holds_back_what_comes_after_it_until_its_verdict() -> None:
    orders = [register(), submit("s1"), redirect("to_https")]
    done = run(None, orders, range(1, 9))
    assert (done.ran, outcomes(done.events)) == (2, ["r applied"])
    judged: TargetVerdict = accept("s1")
    state = evolve_all(done.state, decide(done.state, judged, context(9)))
    rest = run(state, orders[2:], [10])
    assert (rest.ran, outcomes(rest.events)) == (1, ["c applied"])


def test_what_is_refused_in_its_turn_overtakes_nothing() -> None:
    """The trust that is changed before it makes the deployment a refused one."""
    orders = [register(), submit("s1"), change("c", trust="private"), deploy("d", kept())]
    done = run(None, orders, range(1, 9))
    assert (done.ran, outcomes(done.events)) == (2, ["r applied"])
    waiting = [register(), deploy("w", None, ready=False), deploy("d", None)]
    done = run(None, waiting, range(1, 9))
    assert (done.ran, outcomes(done.events)) == (1, ["r applied"])


def test_what_stands_between_a_submission_and_its_overtaker_runs_in_its_turn() -> None:
    orders = [register(), submit("s1"), redirect("to_https"), disable()]
    done = run(None, orders, range(1, 9))
    assert outcomes(done.events) == [
        "r applied",
        "s1 superseded submission.superseded",
        "c refused https.not_enabled",
        "d unchanged",
    ]
    assert sum(isinstance(event, JudgingBegan) for event in done.events) == 1
    assert done.state is not None and done.state.pending is None and done.state.name == NAME
