"""One transaction on domains and library entries: the only place that opens it, loads and locks
states, draws revisions, and writes what came of commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Generic

from services.config.domain import (
    command_parser,
    domain_machine,
    library_entry,
    names,
    outgoing_messages,
    scheduling,
)
from services.config.domain.command_parser import CommandBody
from services.config.domain.commands import (
    DeployCommand,
    DomainCommand,
    JudgingResult,
    LibraryCommand,
    RegisterCommand,
    SubmitCommand,
)
from services.config.domain.events import DeploymentResolved, Event, JudgingBegan, Stored
from services.config.domain.model import (
    Cause,
    CommandContext,
    CommandTarget,
    Domain,
    LibraryEntry,
    domain_target,
    library_target,
)
from services.config.domain.scheduling import StateEvolution, StateT
from services.config.store import domains, history, library
from services.config.store.families import FamilyHolders, lock_families
from services.config.store.revisions import DatabaseTimeline, draw_revisions
from services.config.usecases.revisions import RevisionGate
from shared.clock import Clock
from shared.errors import DatabaseAway
from shared.messages import Outgoing
from shared.storage import inbox, outbox
from shared.storage.inbox import QueuedCommand
from shared.storage.pool import Connection, Pool


class UnitsOfWork:
    """Begins units of work."""

    def __init__(self, pool: Pool, revisions: RevisionGate, clock: Clock) -> None:
        self._pool = pool
        self._revisions = revisions
        self._clock = clock

    @asynccontextmanager
    async def begin(self, *, draws_revisions: bool = True) -> AsyncIterator[UnitOfWork]:
        """Open a transaction; at the end of the block write what came of it, and commit.

        ``draws_revisions``: wait first until revisions may be drawn. A fault that is raised in the
        block rolls everything back."""
        timeline = await self._revisions.wait_until_open() if draws_revisions else None
        async with self._pool.acquire() as connection, connection.transaction():
            work = UnitOfWork(connection, self._clock.now(), timeline)
            yield work
            await work.write()


class LoadedStates(Generic[StateT]):
    """The states of one kind of aggregate, by key, as they were loaded and as they are now."""

    def __init__(self, machine: StateEvolution[StateT]) -> None:
        self._machine = machine
        self._before: dict[str, StateT] = {}
        self._now: dict[str, StateT | None] = {}

    def put(self, states: Mapping[str, StateT]) -> None:
        """Take in states as they stand in the database."""
        self._before.update(states)
        self._now.update(states)

    def get(self, key: str) -> StateT | None:
        """Return the state as it is now."""
        return self._now.get(key)

    def __contains__(self, key: str) -> bool:
        """Return whether a state was loaded or made under the key."""
        return key in self._now

    def apply(self, key: str, events: Iterable[Event]) -> None:
        """Move a state on by events."""
        self._now[key] = scheduling.evolve_all(self._machine, self._now.get(key), events)

    def move(self, key: str, state: StateT | None) -> None:
        """Take in the state after events."""
        self._now[key] = state

    def find_changes(self) -> list[tuple[str, StateT | None, StateT | None]]:
        """Return (key, state before, state now) of each state that is another one now."""
        changes = []
        for key, now in self._now.items():
            before = self._before.get(key)
            if now != before:
                changes.append((key, before, now))
        return changes


# Invariants:
# - A state changes only under the lock of its key (``inbox_keys``). Every way in takes that lock:
#   the queue, verdicts, the deadline, followers, suspensions. The row of a library entry is locked
#   besides, for deployments copy it under other keys, those of their domains.
# - States are loaded after their lock, and revisions are drawn after it too: of two changes of a
#   domain the later one has the higher revision, whichever replica makes it.
# - Domains and entries are written at the end of the block. States, history, messages and what is
#   settled in the inbox commit together or not at all, and a command that runs again makes messages
#   of the same ids. What was decided so far in the block is seen through ``LoadedStates``, not in
#   tables.
# - Where two transactions may wait for each other after all, PostgreSQL ends one of them. A
#   deadlock is a transient fault: it runs again.
class UnitOfWork:
    """One transaction. ``at``: its time. ``connection``: for what one use case alone reads."""

    def __init__(
        self, connection: Connection, at: datetime, timeline: DatabaseTimeline | None
    ) -> None:
        self.connection = connection
        self.at = at
        self.domains: LoadedStates[Domain] = LoadedStates(domain_machine)
        self.entries: LoadedStates[LibraryEntry] = LoadedStates(library_entry)
        self._timeline = timeline
        self._families = FamilyHolders()
        self._taken_names: frozenset[tuple[str, str, str]] = frozenset()
        self._entry_contexts: dict[str, CommandContext] = {}
        self._revisions: list[int] = []
        self._bodies: dict[tuple[str, datetime, int], CommandBody] = {}
        self._recorded: list[tuple[CommandTarget, Sequence[Event]]] = []
        self._finished: list[QueuedCommand] = []
        self._held: list[QueuedCommand] = []
        self._released: set[str] = set()
        self._ended_deployments: list[tuple[str, str]] = []

    # --- Locking and loading ---

    async def lock_queues(
        self,
        limit: int,
        only: str | None,
        *,
        prefix: str = "",
        without_prefix: str | None = None,
    ) -> dict[str, list[QueuedCommand]]:
        """Lock keys with something ready, and return what waits under each, in order."""
        keys = await inbox.lock_ready_keys(
            self.connection, limit, only, prefix=prefix, without_prefix=without_prefix
        )
        if not keys:
            return {}
        return await inbox.load_queues(self.connection, sorted(keys))

    async def lock_queue(self, key: str) -> list[QueuedCommand]:
        """Wait for the lock of a key, and return what waits under it."""
        await inbox.lock_key(self.connection, key)
        return (await inbox.load_queues(self.connection, [key]))[key]

    def read_command(self, queued: QueuedCommand) -> tuple[CommandBody, Cause]:
        """Read a stored command: the body once, however many keys it waits under."""
        position = (queued.stream, queued.incarnation, queued.sequence)
        body = self._bodies.get(position)
        if body is None:
            body = command_parser.parse_command(queued.message_id, queued.subject, queued.body)
            self._bodies[position] = body
        cause = Cause(
            queued.message_id,
            queued.subject,
            command_parser.printable_source(queued.source),
            body.account,
            queued.stream_time,
            queued.traceparent or None,
        )
        return body, cause

    async def lock_domain(self, name: str) -> Domain | None:
        """Wait for the lock of a domain and load it."""
        await inbox.lock_key(self.connection, name)
        await self.load_domains([name])
        return self.domains.get(name)

    async def load_domains(self, wanted: Sequence[str]) -> None:
        """Load domains that are locked already."""
        self.domains.put(await domains.load_domains(self.connection, wanted))

    async def lock_entry(self, key: str) -> LibraryEntry | None:
        """Wait for the lock of a library entry and load it."""
        await inbox.lock_key(self.connection, key)
        self.entries.put(await library.lock_entries(self.connection, [key]))
        return self.entries.get(key)

    async def load_entries(self, keys: Sequence[str]) -> None:
        """Load library entries under locked keys, with the context of their commands."""
        self.entries.put(await library.lock_entries(self.connection, keys))
        for key in keys:
            entry = self.entries.get(key)
            self._entry_contexts[key] = await library.load_entry_context(
                self.connection, key, entry, self.at
            )

    async def complete_commands(
        self, queues: Mapping[str, Sequence[DomainCommand]]
    ) -> dict[str, list[DomainCommand]]:
        """Load what the commands of domains need to know, and draw a revision for each.

        Return the commands with what deployments copy from the library."""
        named = set()
        registered = []
        deployments = []
        for key, commands in queues.items():
            for command in commands:
                if isinstance(command, SubmitCommand) and command.name:
                    named.add((command.cause.account, command.name, key))
                elif isinstance(command, RegisterCommand):
                    registered.append(key)
                elif isinstance(command, DeployCommand):
                    deployments.append((command.cause.command_id, key))
        # Every replica takes these locks in the same order: names, library entries, families.
        if named:
            taken = await library.lock_taken_names(self.connection, named)
            self._taken_names = frozenset(taken)
        completed = {key: list(commands) for key, commands in queues.items()}
        if deployments:
            deployable = await library.load_deployable(self.connection, deployments)
            for key, commands in completed.items():
                for index, command in enumerate(commands):
                    place = (command.cause.command_id, key)
                    if isinstance(command, DeployCommand) and place in deployable:
                        commands[index] = replace(command, stored=deployable[place], ready=True)
        if registered:
            self._families = await lock_families(self.connection, registered)
        self._revisions = await self.draw_revisions(sum(map(len, queues.values())))
        return completed

    async def draw_revisions(self, count: int) -> list[int]:
        """Draw the next ``count`` numbers of the global revision."""
        if self._timeline is None:
            raise DatabaseAway("this unit of work was begun without revisions")
        return await draw_revisions(self.connection, count, self._timeline)

    def domain_context(self, name: str) -> CommandContext:
        """Return what the commands of a domain need to know now."""
        taken = frozenset(
            (account, title) for account, title, by in self._taken_names if by == name
        )
        return CommandContext(self.at, taken=taken, holders=self._find_holders(name))

    # --- Deciding ---

    def run_domain(
        self,
        name: str,
        queue: Sequence[QueuedCommand],
        commands: Sequence[DomainCommand],
    ) -> None:
        """Run the queue of a domain until a command must wait. ``commands``: one for each in the
        queue, completed."""
        revisions = self._revisions[: len(commands)]
        del self._revisions[: len(commands)]
        result = scheduling.run_queue(
            domain_machine, self.domains.get(name), commands, self.domain_context(name), revisions
        )
        self.domains.move(name, result.state)
        self._recorded.append((domain_target(name), result.events))
        self.finish(queue[: result.ran])
        self._held += queue[result.ran :]
        for command in commands[: result.ran]:
            if isinstance(command, DeployCommand):
                self._ended_deployments.append((command.cause.command_id, name))

    def run_entry(
        self, key: str, queue: Sequence[QueuedCommand], commands: Sequence[LibraryCommand]
    ) -> None:
        """Run the queue of a library entry until a command must wait."""
        result = scheduling.run_queue(
            library_entry, self.entries.get(key), commands, self._entry_contexts[key]
        )
        self.entries.move(key, result.state)
        self._recorded.append((library_target(key), result.events))
        self.finish(queue[: result.ran])
        self._held += queue[result.ran :]

    # A verdict, the deadline, a replaced entry and a suspension overtake nothing and wait for
    # nothing, so they are decided at once.

    def decide_domain(
        self, name: str, command: DomainCommand | JudgingResult, revision: int
    ) -> list[Event]:
        """Decide what does not come from the inbox, and record what came of it."""
        context = CommandContext(self.at, revision)
        events = domain_machine.decide(self.domains.get(name), command, context)
        self.record(domain_target(name), events)
        return events

    def decide_entry(self, key: str, result: JudgingResult) -> list[Event]:
        """Decide the end of a judging for the library, and record what came of it."""
        context = CommandContext(self.at)
        events = library_entry.decide(self.entries.get(key), result, context)
        self.record(library_target(key), events)
        return events

    # --- Recording and writing ---

    def record(self, target: CommandTarget, events: Sequence[Event]) -> None:
        """Apply events to the state of their target, and keep them for history and messages."""
        if target.in_library:
            self.entries.apply(target.key, events)
        else:
            self.domains.apply(target.key, events)
        self._recorded.append((target, events))

    def finish(self, queue: Sequence[QueuedCommand]) -> None:
        """Settle queued commands: they ran."""
        self._finished += queue

    def release(self, *keys: str) -> None:
        """Make ready what is held back under keys."""
        self._released.update(keys)

    def forget_deployments(self, ended: Iterable[tuple[str, str]]) -> None:
        """Forget deployments (command id, domain) that came to their end."""
        self._ended_deployments += ended

    async def write(self) -> None:
        """Write states, history, messages, and what is settled in the inbox."""
        changed_domains = []
        # A domain is never deleted by a command: its tombstone is a state, too.
        for _, before, now in self.domains.find_changes():
            if now is not None:
                changed_domains.append((before, now))
        await domains.save_domains(self.connection, changed_domains, self.at)
        for key, entry_before, entry_now in self.entries.find_changes():
            await library.save_entry(self.connection, key, entry_before, entry_now)
        await history.write_history(self.connection, self._recorded, self.at)
        await self._write_library_work()
        await self._write_messages()
        await inbox.finish_commands(self.connection, self._finished)
        await inbox.hold_commands(self.connection, self._held)
        await library.forget_deployments(self.connection, self._ended_deployments)
        if self._released:
            await inbox.release_keys(self.connection, sorted(self._released))

    async def _write_library_work(self) -> None:
        """Record what library commands still have to do on domains."""
        for target, events in self._recorded:
            for event in events:
                if isinstance(event, DeploymentResolved):
                    await library.record_deployment(self.connection, target.key, event)
                    self.release(*event.domains)
                elif isinstance(event, Stored) and event.replaces:
                    await library.record_followers(self.connection, target.key, event)

    async def _write_messages(self) -> None:
        messages: list[Outgoing] = []
        began: list[tuple[CommandTarget, JudgingBegan]] = []
        for target, events in self._recorded:
            for event in events:
                messages += outgoing_messages.event_messages(target, event, self.at)
                if isinstance(event, JudgingBegan) and self._is_pending(target, event):
                    began.append((target, event))
        await outbox.enqueue(self.connection, messages)
        if began:
            questions = await self._judging_questions(began)
            await outbox.enqueue(self.connection, questions, carries_pair=True)

    def _is_pending(self, target: CommandTarget, event: JudgingBegan) -> bool:
        """Return whether the submission was not overtaken in this very transaction."""
        state = self._state_of(target)
        return state is not None and state.pending == event.pending

    async def _judging_questions(
        self, began: Sequence[tuple[CommandTarget, JudgingBegan]]
    ) -> list[Outgoing]:
        accounts = set()
        for _, event in began:
            if event.trust == "private":
                accounts.add(event.pending.cause.account)
        roots: dict[str, list[str]] = {}
        if accounts:
            roots = await library.load_roots(self.connection, sorted(accounts))
        questions = []
        for target, event in began:
            state = self._state_of(target)
            live = state.certificate if isinstance(state, LibraryEntry) else None
            if isinstance(state, Domain):
                live = state.live
            own_roots = roots.get(event.pending.cause.account, [])
            questions.append(
                outgoing_messages.judging_question(target, event, live, own_roots, self.at)
            )
        return questions

    def _state_of(self, target: CommandTarget) -> Domain | LibraryEntry | None:
        if target.in_library:
            return self.entries.get(target.key)
        return self.domains.get(target.key)

    def _find_holders(self, name: str) -> frozenset[str]:
        """Return the accounts that hold what a name shares a family with, as this transaction has
        changed it so far: wildcards are decided before their hosts."""
        wildcard = names.wildcard_of(names.parent_name(name))
        holder = self.domains.get(wildcard)
        if name == wildcard or wildcard not in self.domains:
            return self._families.holders_beside(name)
        if holder is None or holder.removed:
            return frozenset()
        return frozenset({holder.account})
