"""The account's library at work: its commands in their order, its verdicts, and the domains that
follow an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import structlog

from services.config.domain import (
    command_parser,
    domain_machine,
    library_entry,
    outgoing_messages,
    trust_roots,
)
from services.config.domain.command_parser import Command
from services.config.domain.commands import Follow, Judged, Settled, Timeout
from services.config.domain.library_entry import Entry, Event, StoreBegan, Stored
from services.config.domain.model import Cause, Where
from services.config.store import domains
from services.config.store import library as store
from services.config.store.revisions import draw
from services.config.usecases import suspend
from services.config.usecases.revisions import Revisions
from services.config.usecases.unit_of_work import Effects
from shared.clock import Clock
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.certificates import SetRoots
from shared.contracts.domains import Outcome
from shared.errors import Malformed
from shared.faults import describe, is_transient
from shared.messages import Outgoing
from shared.storage import inbox, outbox
from shared.storage.inbox import Target
from shared.storage.pool import Connection, Pool

log = structlog.get_logger()
KEYS_AT_ONCE = 50
DOMAINS_AT_ONCE = 50
"""Of one library command in a transaction: each lot holds its domains' locks for a short time
only."""
POLL_SECONDS = 0.5


class Librarian:
    """``follow``: set when a replaced entry has domains that follow it."""

    def __init__(
        self, pool: Pool, revisions: Revisions, clock: Clock, follow: asyncio.Event
    ) -> None:
        self._pool, self._revisions, self._clock, self._follow = pool, revisions, clock, follow

    async def run_ready(self, only: str | None = None) -> list[str]:
        """Runs the library commands that are ready, of up to 50 entries in one transaction; their
        keys. Nothing of a domain is locked here, so that domains may wait for the library and never
        the other way round."""
        async with self._pool.acquire() as connection, connection.transaction():
            keys = sorted(await inbox.lock_ready(connection, KEYS_AT_ONCE, only, library=True))
            if not keys:
                return []
            queues = await inbox.waiting(connection, keys)
            entries = await store.lock(connection, keys)
            work = _Work(self._clock.now())
            for key in keys:
                await self._run_key(connection, key, entries.get(key), queues[key], work)
            await work.write(connection)
        return keys

    async def answer(
        self, connection: Connection, key: str, asked: Judged | Timeout, account: str | None
    ) -> bool:
        """Ends the entry's pending submission, in the caller's transaction."""
        await inbox.lock_key(connection, key)
        entry = (await store.lock(connection, [key])).get(key)
        if entry is None:
            return False
        if account is not None and entry.account != account:
            raise Malformed("the verdict names another account than the submission's")
        work = _Work(self._clock.now())
        events = library_entry.decide(entry, asked, at=work.at, known=library_entry.Known())
        await work.keep(connection, key, entry, library_entry.evolve_all(entry, events), events)
        await work.write(connection)
        await inbox.release(connection, [key])
        if any(isinstance(event, Stored) and event.replaces for event in events):
            self._follow.set()
        return bool(events)

    async def follow(self) -> int:
        """Lets up to 50 domains follow their replaced entries; how many did or need not any
        more."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            waiting = await store.following(connection, DOMAINS_AT_ONCE)
            names = sorted({domain for _, domain in waiting})
            for name in names:
                await inbox.lock_key(connection, name)
            states = await domains.load(connection, names)
            free = {name for name in names if name not in states or states[name].pending is None}
            found = await store.followers(connection, [one for one in waiting if one[1] in free])
            numbers = iter(await draw(connection, len(found), home)) if found else iter(())
            effects = Effects(self._clock.now())
            for one in found:
                before = states.get(one.domain)
                events = domain_machine.decide(
                    before,
                    Follow(one.cause, one.entry, one.stored),
                    revision=next(numbers),
                    at=effects.at,
                )
                after = domain_machine.evolve_all(before, events)
                effects.keep(Where(one.domain), before, after, events)
                if after is not None:
                    states[one.domain] = after
            await effects.write(connection)
            await store.forget(connection, [(one.command_id, one.domain) for one in found])
        return len(found)

    async def run(self, wake: asyncio.Event) -> None:
        """For ever: lets domains follow, and nudges what waits for the library."""
        while True:
            self._follow.clear()
            busy = 0
            try:
                busy = await self.follow()
                if await store.nudge(self._pool):
                    wake.set()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("librarian.paused", error=describe(error))
            if not busy:
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._follow.wait()
                except TimeoutError:
                    continue

    async def _run_key(
        self,
        connection: Connection,
        key: str,
        entry: Entry | None,
        queue: Sequence[Target],
        work: _Work,
    ) -> None:
        read = [read_target(target) for target in queue]
        account, name = library_entry.owner(key)
        if not name:
            for command, cause in read:
                if isinstance(command.body, SetResumption | ResumeAccount):
                    settled = await suspend.by_hand(connection, command.body, cause)
                    await work.keep(connection, key, None, None, [settled])
                else:
                    await _set_roots(connection, key, command, cause, work)
            work.ran += queue
            return
        known = await store.known(connection, key, account, name, entry.id if entry else None)
        orders = [command_parser.library_order(command, cause) for command, cause in read]
        done = library_entry.run(entry, orders, at=work.at, known=known)
        await work.keep(connection, key, entry, done.state, done.events)
        work.ran += queue[: done.ran]
        work.held += queue[done.ran :]


class _Work:
    """What one transaction does to entries, and says of it."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.ran: list[Target] = []
        self.held: list[Target] = []
        self._outgoing: list[Outgoing] = []
        self._questions: list[tuple[str, Entry, StoreBegan]] = []
        self._released: set[str] = set()

    async def keep(
        self,
        connection: Connection,
        key: str,
        before: Entry | None,
        after: Entry | None,
        events: Sequence[Event],
    ) -> None:
        account, name = library_entry.owner(key)
        where = Where(None, name or None)
        if after != before:
            await store.save(connection, key, before, after)
        await store.record(connection, where, key, events, self.at)
        for event in events:
            if isinstance(event, Settled):
                self._outgoing += outgoing_messages.caused(where, event, self.at)
            elif isinstance(event, library_entry.Resolved):
                self._released |= set(event.domains)
            elif (
                isinstance(event, StoreBegan)
                and after is not None
                and after.pending == event.pending
            ):
                self._questions.append((account, before or after, event))

    async def write(self, connection: Connection) -> None:
        private = [account for account, _, began in self._questions if began.trust == "private"]
        own = await store.roots_of(connection, private) if private else {}
        asked = [
            outgoing_messages.store_question(entry, began, own.get(account, []), self.at)
            for account, entry, began in self._questions
        ]
        await outbox.enqueue(connection, self._outgoing)
        await outbox.enqueue(connection, asked, carries_pair=True)
        await inbox.finish(connection, self.ran)
        await inbox.hold(connection, self.held)
        await inbox.release(connection, sorted(self._released))


async def _set_roots(
    connection: Connection, key: str, command: Command, cause: Cause, work: _Work
) -> None:
    body = command.body
    if not isinstance(body, SetRoots):
        raise ValueError(f"{command.subject} does not set roots")
    before = (await store.roots_of(connection, [body.account])).get(body.account, [])
    settled, wanted = trust_roots.settle(cause, body.roots, before)
    if settled.outcome is Outcome.APPLIED:
        await store.save_roots(connection, body.account, wanted, work.at)
    await work.keep(connection, key, None, None, [settled])


def read_target(target: Target) -> tuple[Command, Cause]:
    command = command_parser.read(target.message_id, target.subject, target.source, target.body)
    return command, Cause(
        command.id,
        command.subject,
        command.source,
        command.body.account,
        target.stream_time,
        target.traceparent or None,
    )
