"""The one engine for domains and library entries: in which order commands run, and which wait
(docs/architecture.md, steps 2 and 3 of an upload). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from services.config.domain.commands import DeployCommand
from services.config.domain.events import (
    DeploymentResolved,
    Event,
    JudgingEnded,
    superseded,
)
from services.config.domain.model import CommandContext, PendingSubmission


class JudgedState(Protocol):
    """A state that a submission can be pending for."""

    @property
    def pending(self) -> PendingSubmission | None: ...


StateT = TypeVar("StateT", bound=JudgedState)
CommandT = TypeVar("CommandT")
AskedT = TypeVar("AskedT", contravariant=True)


class StateEvolution(Protocol[StateT]):
    """How events change the state of one aggregate."""

    def evolve(self, state: StateT | None, event: Event, /) -> StateT | None:
        """Return the state after an event."""


class StateMachine(StateEvolution[StateT], Protocol[StateT, AskedT]):
    """The rules of one aggregate: the modules ``domain_machine`` and ``library_entry``."""

    def decide(
        self, state: StateT | None, command: AskedT, context: CommandContext, /
    ) -> list[Event]:
        """Return what comes of a command, its end included."""

    def overtakes(self, state: StateT | None, command: AskedT, context: CommandContext, /) -> bool:
        """Return whether a command ends what is pending or waiting, instead of waiting for it."""

    def must_wait(self, state: StateT | None, command: AskedT, context: CommandContext, /) -> bool:
        """Return whether a command cannot run yet, for something outside of its own key."""


@dataclass
class QueueResult(Generic[StateT]):
    """What came of a queue: its first ``ran`` commands ran, and the others are held back."""

    state: StateT | None
    events: list[Event] = field(default_factory=list)
    ran: int = 0


def run_queue(
    machine: StateMachine[StateT, CommandT],
    state: StateT | None,
    commands: Sequence[CommandT],
    context: CommandContext,
    revisions: Sequence[int] = (),
) -> QueueResult[StateT]:
    """Run commands in the order of their stream until one must wait.

    ``revisions``: a number for each command, rising; without them ``context.revision`` stays."""
    # What is invariant here: how a queue is cut into calls changes no outcome, because a replica
    # finds any part of it. Two things hold a command back:
    # - a submission that is being judged holds back everything after it, since what follows may
    #   depend on the verdict;
    # - ``must_wait``: the library has not come to a deployment, or a deletion comes after
    #   deployments that have not ended.
    # A submission does not hold back for ever: a later command that settles the certificate anew
    # overtakes it. Then the submission ends as superseded, and the commands between the two run in
    # their turn, so nothing is ever reordered. A waiting deployment ends in the same way. A command
    # that would be refused overtakes nothing: otherwise a mistyped name would cost a customer the
    # upload before it.
    result = QueueResult(state)

    def apply(events: list[Event]) -> None:
        result.events += events
        result.state = evolve_all(machine, result.state, events)

    for index, command in enumerate(commands):
        if revisions:
            context = replace(context, revision=revisions[index])
        current = result.state
        if current is not None and current.pending is not None:
            if not _is_overtaken(machine, current, commands[index:], context):
                break
            apply(supersede_pending(current))
        if machine.must_wait(result.state, command, context):
            later = commands[index + 1 :]
            if not isinstance(command, DeployCommand):
                break
            if not _is_overtaken(machine, result.state, later, context):
                break
            apply([superseded(command.cause)])
            result.ran += 1
            continue
        events = machine.decide(result.state, command, context)
        apply(events)
        result.ran += 1
        if any(isinstance(event, DeploymentResolved) for event in events):
            context = replace(context, unsettled=True)
    return result


def decide_now(
    machine: StateMachine[StateT, CommandT],
    state: StateT | None,
    command: CommandT,
    context: CommandContext,
) -> list[Event]:
    """Decide one command at once; what it overtakes ends first."""
    events: list[Event] = []
    if state is not None and machine.overtakes(state, command, context):
        events = supersede_pending(state)
        state = evolve_all(machine, state, events)
    return events + machine.decide(state, command, context)


def supersede_pending(state: JudgedState) -> list[Event]:
    """Return the end of the pending submission, if there is one: a later command overtook it."""
    if state.pending is None:
        return []
    cause = state.pending.cause
    return [JudgingEnded(cause.command_id), superseded(cause)]


def evolve_all(
    machine: StateEvolution[StateT], state: StateT | None, events: Iterable[Event]
) -> StateT | None:
    """Return the state after all events."""
    for event in events:
        state = machine.evolve(state, event)
    return state


def _is_overtaken(
    machine: StateMachine[StateT, CommandT],
    state: StateT | None,
    commands: Sequence[CommandT],
    context: CommandContext,
) -> bool:
    """Return whether one of ``commands`` overtakes when its turn comes.

    What stands before it may have it refused (a change of the trust, and then a deployment), so
    that is tried first."""
    # Revisions of the trial are never kept: they only have to rise above the state's.
    ahead = state
    if state is not None:
        ahead = evolve_all(machine, state, supersede_pending(state))
    for command in commands:
        if machine.must_wait(ahead, command, context):
            continue
        if machine.overtakes(ahead, command, context):
            return True
        ahead = evolve_all(machine, ahead, machine.decide(ahead, command, context))
        context = replace(context, revision=context.revision + 1)
    return False
