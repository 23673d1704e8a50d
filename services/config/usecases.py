"""Decisions with their effects: state, history and outgoing messages in one transaction, under the domain's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.config import commands, machine, messages, names, ordering
from services.config.commands import Command
from services.config.orders import Event, Judged, JudgingBegan, Order, Settled, Timeout
from services.config.revisions import Revisions
from services.config.state import Cause, Domain
from services.config.store import domains, records
from services.config.store.families import Families
from services.config.store.revisions import draw
from shared import subjects
from shared.clock import Clock
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.errors import Malformed
from shared.messaging.cloudevents import Outgoing
from shared.storage import inbox, outbox
from shared.storage.inbox import Target
from shared.storage.pool import Connection, Pool

KEYS_AT_ONCE = 200


@dataclass
class _Effects:
    """What one transaction writes in bulk at its end."""

    at: datetime
    saved: list[domains.Saved] = field(default_factory=list)
    recorded: list[records.Recorded] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    questions: list[Outgoing] = field(default_factory=list)
    ran: list[Target] = field(default_factory=list)
    held: list[Target] = field(default_factory=list)

    async def write(self, connection: Connection) -> None:
        await domains.save(connection, self.saved, self.at)
        await records.write(connection, self.recorded, self.at)
        await outbox.enqueue(connection, self.outgoing)
        await outbox.enqueue(connection, self.questions, carries_pair=True)
        await inbox.finish(connection, self.ran)
        await inbox.hold(connection, self.held)


class Decider:
    """Every change of a domain goes through here. Transient faults are raised: nothing was done then."""

    def __init__(self, pool: Pool, revisions: Revisions, clock: Clock, *, allow_private_origins: bool) -> None:
        self._pool, self._revisions, self._clock = pool, revisions, clock
        self._allow_private = allow_private_origins

    async def run_ready(self, only: str | None = None) -> list[str]:
        """Runs the commands that are ready, of up to 200 domains in one transaction (``only``: of this); their keys."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            keys = await inbox.lock_ready(connection, KEYS_AT_ONCE, only)
            if not keys:
                return []
            queues = await inbox.waiting(connection, keys)
            known = await domains.load(connection, keys)
            numbers = iter(await draw(connection, sum(map(len, queues.values())), home))
            effects = _Effects(self._clock.now())
            families = await Families.lock(connection, (key for key in keys if _registers(queues[key])))
            # A wildcard before its hosts: they must see what became of it.
            for key in sorted(keys, key=lambda key: (names.parent(key), key)):
                self._run_key(known.get(key), queues[key], families, numbers, effects)
            await effects.write(connection)
        return keys

    async def answer(self, asked: Judged | Timeout, account: str | None = None) -> bool:
        """Ends the pending submission that it speaks of; False when there is none (any more).

        Malformed when it is pending for another ``account``."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            name = await domains.pending_domain(connection, asked.submission_id)
            if name is None:
                return False
            await inbox.lock_key(connection, name)
            before = (await domains.load(connection, [name])).get(name)
            if account is not None and before is not None and before.account != account:
                raise Malformed("the verdict names another account than the submission's")
            number = (await draw(connection, 1, home))[0]
            effects = _Effects(self._clock.now())
            events = machine.decide(before, asked, revision=number, at=effects.at)
            self._keep(name, before, machine.evolve_all(before, events), events, effects)
            await effects.write(connection)
            await inbox.release(connection, [name])
            return bool(events)

    async def give_up(self, key: str, bury: Callable[[Target], Awaitable[None]]) -> None:
        """Settles the first command that waits under ``key`` as refused: running it fails, and not for a while."""
        async with self._pool.acquire() as connection, connection.transaction():
            await inbox.lock_key(connection, key)
            waiting = (await inbox.waiting(connection, [key]))[key][:1]
            for target in waiting:
                await bury(target)
                effects = _Effects(self._clock.now(), ran=waiting)
                with contextlib.suppress(Malformed):
                    command, cause = _read(target)
                    settled = Settled(cause, Outcome.REFUSED, (finding(Code.SERVICE_BUSY),))
                    self._keep(command.shown, None, None, [settled], effects)
                await effects.write(connection)
            await inbox.release(connection, [key])

    def _run_key(
        self, before: Domain | None, queue: Sequence[Target], families: Families, numbers: Iterator[int],
        effects: _Effects,
    ) -> None:
        read = [_read(target) for target in queue]
        nameless = [command.shown for command, _ in read if command.name is None]
        orders = [self._order(command, cause) for command, cause in read]
        if nameless:
            for shown, order in zip(nameless, orders, strict=True):
                done = ordering.run(None, [order], revisions=numbers, at=effects.at)
                self._keep(shown, None, None, done.events, effects)
            effects.ran += queue
            return
        name = read[0][0].shown
        done = ordering.run(before, orders, revisions=numbers, at=effects.at, known=families.known(name))
        families.note(name, done.state)
        self._keep(name, before, done.state, done.events, effects)
        effects.ran += queue[: done.ran]
        effects.held += queue[done.ran :]

    def _order(self, command: Command, cause: Cause) -> Order:
        return commands.order(command, cause, allow_private_origins=self._allow_private)

    @staticmethod
    def _keep(
        name: str, before: Domain | None, after: Domain | None, events: list[Event], effects: _Effects
    ) -> None:
        if after is not None and after != before:
            effects.saved.append(domains.Saved(before, after))
        effects.recorded.append(records.Recorded(name, events))
        for event in events:
            effects.outgoing += messages.caused(name, event, effects.at)
            if isinstance(event, JudgingBegan) and after is not None and event.pending == after.pending:
                effects.questions.append(messages.question(after, event, effects.at))


def _registers(queue: Sequence[Target]) -> bool:
    return any(target.subject == subjects.CMD_DOMAIN_REGISTER for target in queue)


def _read(target: Target) -> tuple[Command, Cause]:
    command = commands.read(target.message_id, target.subject, target.source, target.body)
    return command, Cause(
        command.id, command.subject, command.source, command.body.account, target.stream_time,
        target.traceparent or None,
    )
