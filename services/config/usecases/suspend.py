"""Suspension of accounts by billing's word (rule E7), carried to each of their domains under its
own lock."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import structlog

from services.config.domain import domain_machine
from services.config.domain.commands import Resume, Settled, Suspend
from services.config.domain.model import Cause, Where
from services.config.store import accounts, domains
from services.config.store.revisions import draw
from services.config.usecases.revisions import Revisions
from services.config.usecases.unit_of_work import Effects
from shared import catalogue
from shared.clock import Clock
from shared.contracts.accounts import ResumeAccount, Resumption, SetResumption, Suspension
from shared.contracts.balance import BalanceEvent
from shared.contracts.codec import parse
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.faults import describe, is_transient
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection, Pool

log = structlog.get_logger()
AT_ONCE = 200
POLL_SECONDS = 2.0


class Balances:
    """https.event.balance.overdue|settled.v1: billing numbers its words on an account, so the
    latest one holds, however they come. ``wake``: of the Suspender."""

    def __init__(self, pool: Pool, wake: asyncio.Event) -> None:
        self._pool, self._wake = pool, wake

    async def handle(self, delivery: Delivery) -> None:
        event = parse(BalanceEvent, delivery.body)
        cause = Cause(
            delivery.id,
            delivery.subject,
            "billing",
            event.account,
            delivery.stream_time,
            delivery.traceparent,
        )
        overdue = delivery.subject == catalogue.EVENT_BALANCE_OVERDUE
        async with self._pool.acquire() as connection:
            if await accounts.tell(connection, cause, event.crossing, overdue, event.at):
                log.info("account.overdue" if overdue else "account.settled")
                self._wake.set()


async def by_hand(
    connection: Connection, body: SetResumption | ResumeAccount, cause: Cause
) -> Settled:
    """Sets how suspensions end, or ends one: only with a balance above 0. The Suspender sees it
    within 2 s."""
    resumption, suspension = await accounts.lock(connection, body.account)
    if isinstance(body, SetResumption):
        await accounts.set_resumption(connection, body.account, body.resumption)
    if resumes(body, suspension):
        await accounts.resume(connection, cause)
    return settle(body, cause, resumption, suspension)


def settle(
    body: SetResumption | ResumeAccount,
    cause: Cause,
    resumption: Resumption,
    suspension: Suspension | None,
) -> Settled:
    """How the command ends, by what was so before it."""
    if isinstance(body, ResumeAccount) and suspension is not None and not suspension.settled:
        return Settled(cause, Outcome.REFUSED, (finding(Code.ACCOUNT_OVERDUE),))
    changed = isinstance(body, SetResumption) and body.resumption != resumption
    return Settled(
        cause, Outcome.APPLIED if changed or resumes(body, suspension) else Outcome.UNCHANGED
    )


def resumes(body: SetResumption | ResumeAccount, suspension: Suspension | None) -> bool:
    """Only with a balance above 0. To have suspensions end by themselves ends one that waits for a
    hand."""
    if suspension is None or not suspension.settled:
        return False
    return isinstance(body, ResumeAccount) or body.resumption == "automatic"


class Suspender:
    """Makes every domain what its account is: what one replica leaves half done any other
    finishes."""

    def __init__(self, pool: Pool, revisions: Revisions, clock: Clock, wake: asyncio.Event) -> None:
        self._pool, self._revisions, self._clock, self._wake = pool, revisions, clock, wake

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while await self.some():
                    pass
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("suspender.paused", error=describe(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    async def some(self) -> int:
        """Up to 200 domains in one transaction; how many."""
        home = await self._revisions.home()
        async with self._pool.acquire() as connection, connection.transaction():
            turns = await accounts.lock_turns(connection, AT_ONCE)
            if not turns:
                return 0
            known = await domains.load(connection, [turn.domain for turn in turns])
            effects = Effects(self._clock.now())
            for turn, number in zip(turns, await draw(connection, len(turns), home), strict=True):
                before = replace(known[turn.domain], suspended=turn.suspended)
                asked = Resume(turn.cause) if turn.suspended else Suspend(turn.cause)
                events = domain_machine.decide(before, asked, revision=number, at=effects.at)
                effects.keep(
                    Where(turn.domain), before, domain_machine.evolve_all(before, events), events
                )
            await effects.write(connection)
        return len(turns)
