"""Accounts as billing speaks of them, and the domains that their state has not reached yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.config.domain.model import Cause
from shared.contracts.accounts import Resumption, Suspension
from shared.storage.pool import Connection, Pool

_OUT_OF_STEP = """
(select d.name from accounts a join domains d on d.account = a.account
    where a.suspended and not d.suspended and not d.removed limit $1)
union all
(select d.name from domains d join accounts a on a.account = d.account
    where d.suspended and not d.removed and not a.suspended limit $1)
"""


@dataclass(frozen=True)
class Turn:
    """A domain that is to be suspended or resumed. ``suspended``: what its own row says now."""

    domain: str
    suspended: bool
    cause: Cause


async def tell(
    connection: Connection, cause: Cause, crossing: int, overdue: bool, at: datetime
) -> bool:
    """Billing's word; False when a later one was heard already. ``at``: since when it is so."""
    return bool(
        await connection.fetchval(
            "insert into accounts as a (account, suspended, settled, since, crossing, cause, "
            "caused_by, caused_at, source)"
            " values ($1, $2, not $2, $3, $4, $5, $6, $7, $8) on conflict (account) do update "
            "set crossing = $4,"
            " suspended = $2 or (a.suspended and a.resumption = 'by_hand'), settled = not $2,"
            " since = case when $2 and not a.suspended then $3 else a.since end,"
            " cause = $5, caused_by = $6, caused_at = $7, source = $8 where a.crossing < $4 "
            "returning true",
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
    await connection.execute(
        "insert into accounts as a (account, resumption) values ($1, $2) on conflict (account) "
        "do update set"
        " resumption = $2",
        account,
        resumption,
    )


async def lock(connection: Connection, account: str) -> tuple[Resumption, Suspension | None]:
    """How the account's suspensions end, and the present one; its row is locked until the
    transaction ends."""
    row = await connection.fetchrow("select * from accounts where account = $1 for update", account)
    if row is None:
        return "automatic", None
    return row["resumption"], suspension(row) if row["suspended"] else None


async def resume(connection: Connection, cause: Cause) -> None:
    await connection.execute(
        "update accounts set suspended = false, cause = $2, caused_by = $3, caused_at = $4, "
        "source = $5"
        " where account = $1",
        cause.account,
        cause.command_id,
        cause.command,
        cause.received_at,
        cause.source,
    )


async def lock_turns(connection: Connection, limit: int) -> list[Turn]:
    """Domains that are not as their account is, their keys locked; those that another replica holds
    are left to it."""
    rows = await connection.fetch(_OUT_OF_STEP, limit)
    names = sorted({row["name"] for row in rows})
    if not names:
        return []
    await connection.execute(
        "insert into inbox_keys select unnest($1::text[]) on conflict do nothing", names
    )
    locked = await connection.fetch(
        "select key from inbox_keys where key = any($1::text[]) order by key for update skip "
        "locked",
        names,
    )
    rows = await connection.fetch(
        "select d.name, d.account, d.suspended, a.cause, a.caused_by, a.caused_at, a.source "
        "from domains d join"
        " accounts a on a.account = d.account where d.name = any($1::text[]) and not d.removed and"
        " d.suspended <> a.suspended order by d.name",
        [row["key"] for row in locked],
    )
    return [
        Turn(
            row["name"],
            row["suspended"],
            Cause(row["cause"], row["caused_by"], row["source"], row["account"], row["caused_at"]),
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Counts:
    """An account's domains by their state, and its certificates that end within 30 days
    (``expired`` among them)."""

    domains: int
    enabled: int
    suspended: int
    expiring: int
    expired: int


async def view(
    pool: Pool, account: str, at: datetime
) -> tuple[Suspension | None, Resumption, Counts]:
    row = await pool.fetchrow("select * from accounts where account = $1", account)
    counted = await pool.fetchrow(
        "select count(*) as domains, count(*) filter (where served_until is not null and not "
        "suspended) as enabled,"
        " count(*) filter (where served_until is not null and suspended) as suspended,"
        " count(*) filter (where served_until <= $2::timestamptz + interval '30 days') as expiring,"
        " count(*) filter (where served_until <= $2::timestamptz) as expired"
        " from domains where account = $1 and not removed",
        account,
        at,
    )
    return (
        suspension(row) if row is not None and row["suspended"] else None,
        "automatic" if row is None else row["resumption"],
        Counts(**dict(counted)) if counted is not None else Counts(0, 0, 0, 0, 0),
    )


async def suspensions(connection: Connection, accounts: list[str]) -> dict[str, Suspension]:
    """By account; one that is not suspended is missing."""
    rows = await connection.fetch(
        "select * from accounts where account = any($1::text[]) and suspended", accounts
    )
    return {row["account"]: suspension(row) for row in rows}


def suspension(row: Any) -> Suspension:
    return Suspension(
        reason="overdue", since=row["since"], resumes=row["resumption"], settled=row["settled"]
    )
