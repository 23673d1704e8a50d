"""Accounts as billing reports them, and the domains that their state has not reached yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.config.domain.model import Cause
from shared.contracts.accounts import Resumption, Suspension
from shared.storage.pool import Connection, Pool

# Each half is found by an index of its own (domains_unsuspended, domains_suspended). The two may
# give up to twice the limit.
_OUT_OF_STEP = """
(select d.name from accounts a join domains d on d.account = a.account
    where a.suspended and not d.suspended and not d.removed limit $1)
union all
(select d.name from domains d join accounts a on a.account = d.account
    where d.suspended and not d.removed and not a.suspended limit $1)
"""
_LOCK_KEYS = """
select key from inbox_keys where key = any($1::text[]) order by key for update skip locked
"""
_STILL_OUT_OF_STEP = """
select d.name, d.account, d.suspended, a.cause, a.caused_by, a.caused_at, a.source
from domains d join accounts a on a.account = d.account
where d.name = any($1::text[]) and not d.removed and d.suspended <> a.suspended order by d.name
"""
_RECORD_BALANCE = """
insert into accounts as a (account, suspended, settled, since, crossing, cause, caused_by,
    caused_at, source)
values ($1, $2, not $2, $3, $4, $5, $6, $7, $8)
on conflict (account) do update set crossing = $4,
    suspended = $2 or (a.suspended and a.resumption = 'by_hand'), settled = not $2,
    since = case when $2 and not a.suspended then $3 else a.since end,
    cause = $5, caused_by = $6, caused_at = $7, source = $8
where a.crossing < $4 returning true
"""
_SET_RESUMPTION = """
insert into accounts as a (account, resumption) values ($1, $2)
on conflict (account) do update set resumption = $2
"""
_RESUME = """
update accounts set suspended = false, cause = $2, caused_by = $3, caused_at = $4, source = $5
where account = $1
"""
_COUNTS = """
select count(*) as domains,
    count(*) filter (where served_until is not null and not suspended) as enabled,
    count(*) filter (where served_until is not null and suspended) as suspended,
    count(*) filter (where served_until <= $2::timestamptz + interval '30 days') as expiring,
    count(*) filter (where served_until <= $2::timestamptz) as expired
from domains where account = $1 and not removed
"""


@dataclass(frozen=True)
class OutOfStepDomain:
    """A domain to be suspended or resumed. ``suspended``: what its own row holds now."""

    domain: str
    suspended: bool
    cause: Cause


@dataclass(frozen=True)
class StoredAccountState:
    """How the account's suspensions end, and the present one."""

    resumption: Resumption = "automatic"
    suspension: Suspension | None = None


@dataclass(frozen=True)
class DomainCounts:
    """An account's domains by their state, and its certificates that end within 30 days
    (``expired`` among them)."""

    domains: int = 0
    enabled: int = 0
    suspended: int = 0
    expiring: int = 0
    expired: int = 0


async def record_balance(
    connection: Connection, cause: Cause, crossing: int, overdue: bool, at: datetime
) -> bool:
    """Record that an account is overdue or settled since ``at``.

    False when a later crossing was recorded already."""
    return bool(
        await connection.fetchval(
            _RECORD_BALANCE,
            cause.account,
            overdue,
            at,
            crossing,
            cause.command_id,
            cause.command,
            cause.received_at,
            cause.source,
        )
    )


async def set_resumption(connection: Connection, account: str, resumption: Resumption) -> None:
    """Set how the account's suspensions end."""
    await connection.execute(_SET_RESUMPTION, account, resumption)


async def lock_account(connection: Connection, account: str) -> StoredAccountState:
    """Return the account's state, its row locked until the transaction ends."""
    row = await connection.fetchrow("select * from accounts where account = $1 for update", account)
    return _account_state(row)


async def end_suspension(connection: Connection, cause: Cause) -> None:
    """End the suspension of the cause's account."""
    await connection.execute(
        _RESUME,
        cause.account,
        cause.command_id,
        cause.command,
        cause.received_at,
        cause.source,
    )


async def lock_out_of_step(connection: Connection, limit: int) -> list[OutOfStepDomain]:
    """Return domains whose suspension is not their account's, their keys locked.

    Those that another replica holds are left to it."""
    # Found, locked, then looked at again: between the first look and the lock another replica may
    # have done it, or the domain may be gone.
    rows = await connection.fetch(_OUT_OF_STEP, limit)
    names = sorted({row["name"] for row in rows})
    if not names:
        return []
    await connection.execute(
        "insert into inbox_keys select unnest($1::text[]) on conflict do nothing", names
    )
    locked = await connection.fetch(_LOCK_KEYS, names)
    found = []
    for row in await connection.fetch(_STILL_OUT_OF_STEP, [row["key"] for row in locked]):
        cause = Cause(
            row["cause"], row["caused_by"], row["source"], row["account"], row["caused_at"]
        )
        found.append(OutOfStepDomain(row["name"], row["suspended"], cause))
    return found


async def load_account(
    pool: Pool, account: str, at: datetime
) -> tuple[StoredAccountState, DomainCounts]:
    """Return an account's state and counts of its domains at the time ``at``."""
    row = await pool.fetchrow("select * from accounts where account = $1", account)
    counted = await pool.fetchrow(_COUNTS, account, at)
    counts = DomainCounts() if counted is None else DomainCounts(**dict(counted))
    return _account_state(row), counts


async def load_suspensions(connection: Connection, accounts: list[str]) -> dict[str, Suspension]:
    """Return suspensions by account; one that is not suspended is missing."""
    rows = await connection.fetch(
        "select * from accounts where account = any($1::text[]) and suspended", accounts
    )
    return {row["account"]: build_suspension(row) for row in rows}


def build_suspension(row: Any) -> Suspension:
    """Return the suspension in a row with columns of a suspended account."""
    return Suspension(
        reason="overdue", since=row["since"], resumes=row["resumption"], settled=row["settled"]
    )


def _account_state(row: Any) -> StoredAccountState:
    if row is None:
        return StoredAccountState()
    return StoredAccountState(
        row["resumption"], build_suspension(row) if row["suspended"] else None
    )
