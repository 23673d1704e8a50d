"""Decisions with their effects: state, history and outgoing messages in one transaction, under the domain's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.config import commands, machine, messages, names, ordering
from services.config.commands import Command
from services.config.orders import Event, Judged, JudgingBegan, Order, Register, Settled, Timeout
from services.config.revisions import Revisions
from services.config.state import Cause, Domain
from services.config.store import domains, records
from services.config.store.revisions import draw
from shared.clock import Clock
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.errors import Malformed
from shared.messaging.cloudevents import Outgoing
from shared.storage import inbox, outbox
from shared.storage.inbox import Target
from shared.storage.pool import Connection, Pool

KEYS_AT_ONCE = 50


@dataclass
class _Effects:
    """What one transaction writes in bulk at its end."""

    at: datetime
    outgoing: list[Outgoing] = field(default_factory=list)
    questions: list[Outgoing] = field(default_factory=list)
    ran: list[Target] = field(default_factory=list)
    held: list[Target] = field(default_factory=list)

    async def write(self, connection: Connection) -> None:
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
        """Runs the commands that are ready, of up to 50 domains in one transaction (``only``: of this); their keys."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            keys = await inbox.lock_ready(connection, KEYS_AT_ONCE, only)
            if not keys:
                return []
            queues = await inbox.waiting(connection, keys)
            known = await domains.load(connection, keys)
            numbers = iter(await draw(connection, sum(map(len, queues.values())), home))
            effects = _Effects(self._clock.now())
            # In the order of families: their locks are then taken in the same order by every replica.
            for key in sorted(keys, key=lambda key: (names.parent(key), key)):
                await self._run_key(connection, known.get(key), queues[key], numbers, effects)
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
            await self._keep(connection, name, before, machine.evolve_all(before, events), events, effects)
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
                    await self._keep(connection, command.shown, None, None, [settled], effects)
                await effects.write(connection)
            await inbox.release(connection, [key])

    async def _run_key(
        self, connection: Connection, before: Domain | None, queue: Sequence[Target], numbers: Iterator[int],
        effects: _Effects,
    ) -> None:
        read = [_read(target) for target in queue]
        nameless = [command.shown for command, _ in read if command.name is None]
        orders = [self._order(command, cause) for command, cause in read]
        if nameless:
            for shown, order in zip(nameless, orders, strict=True):
                done = ordering.run(None, [order], revisions=numbers, at=effects.at)
                await self._keep(connection, shown, None, None, done.events, effects)
            effects.ran += queue
            return
        name = read[0][0].shown
        known = None
        if any(isinstance(order, Register) for order in orders):
            known = await domains.holders(connection, name)
        done = ordering.run(before, orders, revisions=numbers, at=effects.at, known=known)
        await self._keep(connection, name, before, done.state, done.events, effects)
        effects.ran += queue[: done.ran]
        effects.held += queue[done.ran :]

    def _order(self, command: Command, cause: Cause) -> Order:
        return commands.order(command, cause, allow_private_origins=self._allow_private)

    async def _keep(
        self, connection: Connection, name: str, before: Domain | None, after: Domain | None, events: list[Event],
        effects: _Effects,
    ) -> None:
        if after is not None and after != before:
            await domains.save(connection, before, after, effects.at)
        await records.write(connection, name, events, effects.at)
        for event in events:
            effects.outgoing += messages.caused(name, event, effects.at)
            if isinstance(event, JudgingBegan) and after is not None and event.pending == after.pending:
                effects.questions.append(messages.question(after, event, effects.at))


def _read(target: Target) -> tuple[Command, Cause]:
    command = commands.read(target.message_id, target.subject, target.source, target.body)
    return command, Cause(
        command.id, command.subject, command.source, command.body.account, target.stream_time,
        target.traceparent or None,
    )
