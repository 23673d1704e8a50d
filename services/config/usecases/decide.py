"""Decisions with their effects: state, history and outgoing messages in one transaction, under the
domain's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from services.config.domain import command_parser, domain_machine, judging, names, scheduling
from services.config.domain.command_parser import Command, Place
from services.config.domain.commands import Deploy, Order, Settled, Timeout
from services.config.domain.model import Cause, Certificate, Domain, Where
from services.config.store import domains
from services.config.store import library as library_store
from services.config.store.families import Families
from services.config.store.library import Named
from services.config.store.revisions import draw
from services.config.usecases.library import Librarian, read_target
from services.config.usecases.revisions import Revisions
from services.config.usecases.unit_of_work import Effects
from shared import catalogue
from shared.clock import Clock
from shared.contracts.commands import SubmitCertificate
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.contracts.judging import Verdict
from shared.errors import Malformed
from shared.storage import inbox
from shared.storage.inbox import Target
from shared.storage.pool import Connection, Pool

KEYS_AT_ONCE = 200
Waiting = tuple[Target, Command, Cause]


class Decider:
    """Every change of a domain goes through here. Transient faults are raised: nothing was done
    then."""

    def __init__(
        self,
        pool: Pool,
        revisions: Revisions,
        clock: Clock,
        librarian: Librarian,
        *,
        allow_private_origins: bool,
    ) -> None:
        self._pool, self._revisions, self._clock, self._librarian = (
            pool,
            revisions,
            clock,
            librarian,
        )
        self._allow_private = allow_private_origins

    async def run_ready(self, only: str | None = None) -> list[str]:
        """Runs the commands that are ready, of the library first: domains may wait for it
        (``only``: of this key); their keys."""
        return [*await self._librarian.run_ready(only), *await self._run_domains(only)]

    async def _run_domains(self, only: str | None) -> list[str]:
        """Of up to 200 domains in one transaction."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            keys = await inbox.lock_ready(connection, KEYS_AT_ONCE, only, library=False)
            if not keys:
                return []
            queues = await inbox.waiting(connection, keys)
            waiting = {
                key: [(target, *read_target(target)) for target in queue]
                for key, queue in queues.items()
            }
            around = await _Around.load(connection, waiting)
            known = await domains.load(connection, keys)
            numbers = iter(await draw(connection, sum(map(len, queues.values())), home))
            effects = Effects(self._clock.now(), roots=around.roots)
            families = await Families.lock(
                connection, (key for key in keys if _registers(queues[key]))
            )
            # A wildcard before its hosts: they must see what became of it.
            for key in sorted(keys, key=lambda key: (names.parent(key), key)):
                self._run_key(key, known.get(key), waiting[key], around, families, numbers, effects)
            await effects.write(connection)
            await around.settle(connection, effects.ran)
        return keys

    async def verdict(self, verdict: Verdict) -> bool:
        """Ends the pending submission that it speaks of, with what it says of that domain or
        library entry; False when there is none (any more). Malformed when it is pending for another
        account."""
        return await self._answer(verdict.submission_id, verdict)

    async def answer(self, asked: Timeout) -> bool:
        """Ends the pending submission that it speaks of; False when there is none (any more)."""
        return await self._answer(asked.submission_id, asked)

    async def _answer(self, submission_id: str, said: Verdict | Timeout) -> bool:
        home = await self._revisions.home()
        account = said.account if isinstance(said, Verdict) else None
        async with self._pool.acquire() as connection, connection.transaction():
            name = await domains.pending_domain(connection, submission_id)
            if name is None:
                entry = await library_store.pending_key(connection, submission_id)
                if entry is None:
                    return False
                asked = said if isinstance(said, Timeout) else judging.judged(said, None)
                return await self._librarian.answer(connection, entry, asked, account)
            await inbox.lock_key(connection, name)
            before = (await domains.load(connection, [name])).get(name)
            if account is not None and before is not None and before.account != account:
                raise Malformed("the verdict names another account than the submission's")
            number = (await draw(connection, 1, home))[0]
            effects = Effects(self._clock.now())
            asked = said if isinstance(said, Timeout) else judging.judged(said, name)
            events = domain_machine.decide(before, asked, revision=number, at=effects.at)
            effects.keep(Where(name), before, domain_machine.evolve_all(before, events), events)
            await effects.write(connection)
            await inbox.release(connection, [name])
            return bool(events)

    async def give_up(self, key: str, bury: Callable[[Target], Awaitable[None]]) -> None:
        """Settles the first command that waits under ``key`` as refused: running it fails, and not
        for a while."""
        async with self._pool.acquire() as connection, connection.transaction():
            await inbox.lock_key(connection, key)
            waiting = (await inbox.waiting(connection, [key]))[key][:1]
            for target in waiting:
                await bury(target)
                effects = Effects(self._clock.now(), ran=waiting)
                with contextlib.suppress(Malformed):
                    command, cause = read_target(target)
                    settled = Settled(cause, Outcome.REFUSED, (finding(Code.SERVICE_BUSY),))
                    for place in command.at(key):
                        effects.keep(place.where, None, None, [settled])
                await effects.write(connection)
            await inbox.release(connection, [key])

    def _run_key(
        self,
        key: str,
        before: Domain | None,
        queue: Sequence[Waiting],
        around: _Around,
        families: Families,
        numbers: Iterator[int],
        effects: Effects,
    ) -> None:
        targets = [target for target, _, _ in queue]
        if key.startswith(command_parser.NAMELESS):
            for _, command, cause in queue:
                for place in command.at(key):
                    done = scheduling.run(
                        None,
                        [self._order(command, place, cause, around)],
                        revisions=numbers,
                        at=effects.at,
                    )
                    effects.keep(place.where, None, None, done.events)
            effects.ran += targets
            return
        orders = [
            self._order(command, command.at(key)[0], cause, around) for _, command, cause in queue
        ]
        known = replace(families.known(key), taken=around.taken(key))
        done = scheduling.run(before, orders, revisions=numbers, at=effects.at, known=known)
        families.note(key, done.state)
        effects.keep(Where(key), before, done.state, done.events)
        effects.ran += targets[: done.ran]
        effects.held += targets[done.ran :]

    def _order(self, command: Command, place: Place, cause: Cause, around: _Around) -> Order:
        order = command_parser.order(
            command, place, cause, allow_private_origins=self._allow_private
        )
        return order if order is not None else around.deployment(command.id, place.key, cause)


class _Around:
    """What the commands of a transaction need to know beyond their domains: certificates that they
    deploy, names that are taken, an account's own roots."""

    def __init__(self, roots: dict[str, list[str]]) -> None:
        self.roots = roots
        self._deployable: dict[tuple[str, str], Certificate | None] = {}
        self._deployments: list[tuple[str, str]] = []
        self._taken: set[Named] = set()

    @classmethod
    async def load(
        cls, connection: Connection, waiting: Mapping[str, Sequence[Waiting]]
    ) -> _Around:
        submitted = [
            (key, command.body)
            for key, queue in waiting.items()
            for _, command, _ in queue
            if isinstance(command.body, SubmitCertificate)
        ]
        accounts = sorted({body.account for _, body in submitted})
        found = cls(await library_store.roots_of(connection, accounts) if accounts else {})
        named = [(body.account, body.name, key) for key, body in submitted if body.name is not None]
        found._taken = await library_store.taken_names(connection, named) if named else set()
        found._deployments = [
            (command.id, key)
            for key, queue in waiting.items()
            for _, command, _ in queue
            if command.subject == catalogue.CMD_CERTIFICATE_DEPLOY
        ]
        if found._deployments:
            found._deployable = await library_store.deployable(connection, found._deployments)
        return found

    def taken(self, domain: str) -> frozenset[tuple[str, str]]:
        return frozenset((account, name) for account, name, by in self._taken if by == domain)

    def deployment(self, command_id: str, domain: str, cause: Cause) -> Deploy:
        place = (command_id, domain)
        return Deploy(cause, self._deployable.get(place), ready=place in self._deployable)

    async def settle(self, connection: Connection, ran: Sequence[Target]) -> None:
        """Deployments that came to their end: a deletion of the entry need not wait for them any
        more."""
        done = {(target.message_id, target.key) for target in ran} & set(self._deployments)
        if done:
            await library_store.forget(connection, sorted(done))


def _registers(queue: Sequence[Target]) -> bool:
    return any(target.subject == catalogue.CMD_DOMAIN_REGISTER for target in queue)
