"""Decide the commands of the accounts' libraries, and let domains follow replaced entries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.config.domain import command_parser, trust_roots
from services.config.domain.command_parser import CommandBody
from services.config.domain.commands import UpdateFromLibrary
from services.config.domain.events import Event, Settled, Stored
from services.config.domain.model import (
    LIBRARY_PREFIX,
    Cause,
    library_target,
    split_library_key,
)
from services.config.store import library as store
from services.config.usecases import suspend
from services.config.usecases.unit_of_work import UnitOfWork, UnitsOfWork
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.certificates import SetRoots
from shared.contracts.domains import Outcome
from shared.storage import inbox
from shared.storage.inbox import QueuedCommand
from shared.storage.pool import Pool

ENTRIES_AT_ONCE = 50
# Domains that follow in one transaction: few, so that their locks are held for a short time only.
DOMAINS_AT_ONCE = 50


# How one library command reaches many domains, each under a key of its own:
# 1. The command runs under the entry's key. A deployment fixes which entry is meant (its id), and a
#    replacement lists the domains that serve the entry. Both leave a row in ``deployments`` for
#    each domain, in the transaction that settles them in the library.
# 2. A domain waits for the row of its deployment (``DeployCommand.ready``), then takes its own
#    turn: it copies the certificate as it is then. For a replacement it takes a turn in
#    ``update_followers`` as soon as it has nothing pending.
# 3. The row goes with the domain's own end. A deletion of the entry waits for the rows before it. A
#    domain that copies locks the entry's row for share, and a replacement locks it for update. So a
#    replacement sees every domain that has copied the old certificate, and none copies it later.
class LibraryDecider:
    """Every change of a library.

    ``follow``: set when an entry was replaced that domains serve. ``wake``: of the command
    runner."""

    def __init__(
        self, pool: Pool, units: UnitsOfWork, *, follow: asyncio.Event, wake: asyncio.Event
    ) -> None:
        self._pool = pool
        self._units = units
        self._follow = follow
        self._wake = wake

    async def run_ready(self, only: str | None = None) -> list[str]:
        """Run ready library commands of up to 50 entries in one transaction; return their keys.

        Nothing of a domain is locked here: domains may wait for the library, and never the other
        way round."""
        async with self._units.begin(draws_revisions=False) as work:
            queues = await work.lock_queues(ENTRIES_AT_ONCE, only, prefix=LIBRARY_PREFIX)
            entry_keys = []
            for key, queue in queues.items():
                if split_library_key(key)[1]:
                    entry_keys.append(key)
                else:
                    await _run_account_commands(work, key, queue)
            if entry_keys:
                await work.load_entries(entry_keys)
            for key in entry_keys:
                commands = []
                for queued in queues[key]:
                    commands.append(command_parser.to_library_command(*work.read_command(queued)))
                work.run_entry(key, queues[key], commands)
        return list(queues)

    def wake_followers(self, events: Sequence[Event]) -> None:
        """Wake ``update_followers`` when an entry was replaced."""
        if any(isinstance(event, Stored) and event.replaces for event in events):
            self._follow.set()

    async def update_followers(self) -> bool:
        """Let up to 50 domains follow their replaced entries, and release commands that need not
        wait for the library any more. Return whether any domain followed."""
        async with self._units.begin() as work:
            waiting = await store.lock_followers(work.connection, DOMAINS_AT_ONCE)
            names = sorted({domain for _, domain in waiting})
            for name in names:
                await inbox.lock_key(work.connection, name)
            await work.load_domains(names)
            free = []
            for command_id, name in waiting:
                domain = work.domains.get(name)
                if domain is None or domain.pending is None:
                    free.append((command_id, name))
            followers = await store.load_followers(work.connection, free) if free else []
            revisions = await work.draw_revisions(len(followers)) if followers else []
            for follower, revision in zip(followers, revisions, strict=True):
                command = UpdateFromLibrary(follower.cause, follower.entry, follower.stored)
                work.decide_domain(follower.domain, command, revision)
            work.forget_deployments((one.command_id, one.domain) for one in followers)
        if await store.release_stuck_commands(self._pool):
            self._wake.set()
        return bool(followers)


async def _run_account_commands(work: UnitOfWork, key: str, queue: Sequence[QueuedCommand]) -> None:
    """Run commands for an account as a whole: its own roots, and how its suspensions end."""
    for queued in queue:
        body, cause = work.read_command(queued)
        settled = await _decide_account_command(work, body, cause)
        work.record(library_target(key), [settled])
    work.finish(queue)


async def _decide_account_command(work: UnitOfWork, body: CommandBody, cause: Cause) -> Settled:
    if isinstance(body, SetResumption | ResumeAccount):
        return await suspend.decide_account(work.connection, body, cause)
    if not isinstance(body, SetRoots):
        raise ValueError(f"{cause.command} is no command of an account")
    account = body.account
    before = (await store.load_roots(work.connection, [account])).get(account, [])
    settled, roots = trust_roots.decide_roots(cause, body.roots, before)
    if settled.outcome is Outcome.APPLIED:
        await store.save_roots(work.connection, account, roots, work.at)
    return settled
