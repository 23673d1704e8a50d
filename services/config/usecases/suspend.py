"""Suspend and resume accounts as billing reports them (rule E7), and carry that to each of their
domains under its own lock."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from services.config.domain.commands import ResumeCommand, SuspendCommand
from services.config.domain.events import Settled, applied, refused, unchanged
from services.config.domain.model import Cause
from services.config.store import accounts
from services.config.usecases.unit_of_work import UnitsOfWork
from shared.contracts.accounts import ResumeAccount, SetResumption, Suspension
from shared.contracts.balance import BalanceEvent
from shared.contracts.findings import Code, finding
from shared.storage.pool import Connection, Pool

log = structlog.get_logger()
DOMAINS_AT_ONCE = 200


class AccountSuspender:
    """Makes the suspension of every domain that of its account. Whatever one replica leaves half
    done, any other finishes.

    ``wake``: set when an account changed."""

    def __init__(self, pool: Pool, units: UnitsOfWork, wake: asyncio.Event) -> None:
        self._pool = pool
        self._units = units
        self._wake = wake

    async def record_balance(self, event: BalanceEvent, cause: Cause, *, overdue: bool) -> None:
        """Record what billing reports of an account.

        Billing numbers the crossings of an account, so the latest one holds in whatever order they
        come."""
        async with self._pool.acquire() as connection:
            is_news = await accounts.record_balance(
                connection, cause, event.crossing, overdue, event.at
            )
        if is_news:
            log.info("account.overdue" if overdue else "account.settled")
            self._wake.set()

    async def update_domains(self) -> bool:
        """Suspend or resume up to 200 domains in one transaction; return whether there were any."""
        async with self._units.begin() as work:
            out_of_step = await accounts.lock_out_of_step(work.connection, DOMAINS_AT_ONCE)
            if not out_of_step:
                return False
            await work.load_domains([one.domain for one in out_of_step])
            revisions = await work.draw_revisions(len(out_of_step))
            for one, revision in zip(out_of_step, revisions, strict=True):
                domain = work.domains.get(one.domain)
                if domain is None:
                    continue
                # A domain is loaded with the suspension of its account; here its own row counts.
                work.domains.put({one.domain: replace(domain, suspended=one.suspended)})
                command = ResumeCommand(one.cause) if one.suspended else SuspendCommand(one.cause)
                work.decide_domain(one.domain, command, revision)
        return True


async def decide_account(
    connection: Connection, body: SetResumption | ResumeAccount, cause: Cause
) -> Settled:
    """Set how suspensions end, or end one, and return the command's outcome.

    The domains follow within 2 s (``AccountSuspender.update_domains``)."""
    state = await accounts.lock_account(connection, body.account)
    if isinstance(body, SetResumption):
        await accounts.set_resumption(connection, body.account, body.resumption)
    if ends_suspension(body, state.suspension):
        await accounts.end_suspension(connection, cause)
    return decide_outcome(body, cause, state)


def decide_outcome(
    body: SetResumption | ResumeAccount, cause: Cause, before: accounts.StoredAccountState
) -> Settled:
    """Return the command's outcome, given the account's previous resumption mode and suspension."""
    suspension = before.suspension
    if isinstance(body, ResumeAccount) and suspension is not None and not suspension.settled:
        return refused(cause, finding(Code.ACCOUNT_OVERDUE))
    changes_mode = isinstance(body, SetResumption) and body.resumption != before.resumption
    if changes_mode or ends_suspension(body, suspension):
        return applied(cause)
    return unchanged(cause)


def ends_suspension(body: SetResumption | ResumeAccount, suspension: Suspension | None) -> bool:
    """Return whether a command ends the suspension: only with a balance above 0.

    Setting suspensions to end by themselves ends one that waits to be ended by hand."""
    if suspension is None or not suspension.settled:
        return False
    return isinstance(body, ResumeAccount) or body.resumption == "automatic"
