"""Accounts and their accrued requests by the hour. The lines of the ledger: ``store/ledger.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from services.billing.domain.balance import (
    HOURS_OF_MEAN,
    AccountState,
    PricingContext,
    with_current_tariff,
)
from services.billing.domain.units import UnixHour
from services.billing.domain.usage_aggregator import AccountHour
from services.billing.store import Reader
from services.billing.store.columns import RowColumns
from shared.money import plain
from shared.storage.pool import Connection

_STATE: Final = RowColumns(
    account="text",
    currency="text",
    ledger="numeric",
    entries="bigint",
    accrued_requests="bigint",
    threshold="numeric",
    recent_amount="numeric",
    recent_hours="int",
    low="bool",
    depleted="bool",
    overdue="bool",
    depleted_since="timestamptz",
    crossing="bigint",
    plan_left="bigint",
    tier_key="text",
    tier_used="bigint",
    rate_from="int",
)
"""The fields of AccountState that are columns of the table."""
_REQUESTS: Final = RowColumns(account="text", requests="bigint")
_HOUR_REQUESTS: Final = RowColumns(account="text", hour="int", requests="bigint")
_TIERS: Final = RowColumns(account="text", month="int", price_id="text")
_CREATE: Final = """
insert into accounts (account) select a from unnest($1::text[]) as a order by a collate "C"
on conflict do nothing
"""
_LOCK: Final = f"""
select {_STATE.names} from accounts where account = any($1::text[]) order by account for update
"""
_SAVE: Final = f"""
update accounts a set {_STATE.assignments("account")} from {_STATE.unnest()}
where a.account = t.account
"""
_ADD_ACCRUED: Final = f"""
update accounts a set accrued_requests = a.accrued_requests + t.requests
from {_REQUESTS.unnest()} where a.account = t.account
"""
_ADD_HOURS: Final = f"""
insert into account_hours as h ({_HOUR_REQUESTS.names}) select * from {_HOUR_REQUESTS.unnest()}
on conflict (account, hour) do update set requests = h.requests + excluded.requests
"""
_TO_CHARGE: Final = """
select account from (
    select account from account_hours where hour < $1 and requests <> charged
    union select account from accounts where rate_from < $1
    union select account from plans where not ended and end_hour <= $1
) due where account <> all($3::text[]) order by account limit $2
"""
_FIRST_HOURS: Final = """
select a.account, least(a.rate_from, (
    select min(hour) from account_hours h
    where h.account = a.account and h.hour < $2 and h.requests <> h.charged
), $2) as hour
from accounts a where a.account = any($1::text[]) order by a.account
"""
_RECENT: Final = f"""
select a.account, coalesce(sum(h.amount), 0) as amount, count(h.amount)::int as hours
from unnest($1::text[]) as a (account) left join lateral (
    select amount from account_hours where account = a.account and postings > 0 and charged > 0
    order by hour desc limit {HOURS_OF_MEAN}
) h on true group by a.account
"""
_TIER_USES: Final = f"""
select account, requests from tier_uses
where ({_TIERS.names}) in (select * from {_TIERS.unnest()})
"""
_SET_THRESHOLD_TIME: Final = """
update accounts set threshold_at = $2
where account = $1 and (threshold_at is null or threshold_at < $2) returning true
"""
_LONG_DEPLETED: Final = """
select account from accounts where depleted and not overdue and depleted_since <= $1
and account <> all($3::text[]) order by account limit $2
"""


async def lock_accounts(
    connection: Connection, accounts: Iterable[str], pricing: PricingContext
) -> dict[str, AccountState]:
    """Lock the rows of accounts until the end of the transaction; create those that are missing.

    Every transaction locks in order of the account, so two never wait for each other."""
    ordered = sorted(set(accounts))
    await connection.execute(_CREATE, ordered)
    states = {}
    for row in await connection.fetch(_LOCK, ordered):
        states[row["account"]] = with_current_tariff(AccountState(**dict(row)), pricing)
    return states


async def read_account(connection: Reader, account: str, pricing: PricingContext) -> AccountState:
    """Return an account as it is now, without a lock. An unknown one has nothing."""
    row = await connection.fetchrow(
        f"select {_STATE.names} from accounts where account = $1", account
    )
    state = AccountState(account) if row is None else AccountState(**dict(row))
    return with_current_tariff(state, pricing)


async def save_accounts(connection: Connection, states: Sequence[AccountState]) -> None:
    """Write locked rows back. The time of the threshold is not among their columns."""
    if states:
        await connection.execute(_SAVE, *_STATE.from_objects(states))


async def add_accrued(connection: Connection, requests: Mapping[str, int]) -> None:
    """Add accrued requests to locked accounts whose flags stay as they are."""
    if requests:
        await connection.execute(_ADD_ACCRUED, list(requests), list(requests.values()))


async def add_account_hours(connection: Connection, counts: Mapping[AccountHour, int]) -> None:
    """Add requests by account and hour. The accounts are locked.

    A negative count takes requests away: usage moved to another owner."""
    rows = []
    for (account, hour), requests in sorted(counts.items()):
        if requests:
            rows.append((account, hour, requests))
    if rows:
        await connection.execute(_ADD_HOURS, *_HOUR_REQUESTS.from_tuples(rows))


async def set_threshold_time(connection: Connection, account: str, at: datetime) -> bool:
    """Store when the threshold was set. False when a later change is stored already.

    Two replicas may take two commands in either order."""
    return await connection.fetchval(_SET_THRESHOLD_TIME, account, at) is not None


async def find_accounts_to_charge(
    connection: Reader, end: UnixHour, limit: int, without: Iterable[str] = ()
) -> list[str]:
    """Return accounts that have something to charge before ``end``.

    That is an hour whose requests and charge differ, an hour that must be rated anew, or a plan
    that ended."""
    rows = await connection.fetch(_TO_CHARGE, end, limit, list(without))
    return [row["account"] for row in rows]


async def first_hours_to_rate(
    connection: Connection, accounts: Sequence[str], end: UnixHour
) -> dict[str, UnixHour]:
    """Return the hour from which on each locked account is rated; ``end`` where there is none."""
    rows = await connection.fetch(_FIRST_HOURS, accounts, end)
    return {row["account"]: row["hour"] for row in rows}


async def load_recent_charges(
    connection: Connection, accounts: Sequence[str]
) -> dict[str, tuple[Decimal, int]]:
    """Return what was charged for the last closed hours with service, and the number of hours."""
    rows = await connection.fetch(_RECENT, accounts)
    return {row["account"]: (plain(row["amount"]), row["hours"]) for row in rows}


async def load_tier_uses(connection: Connection, states: Sequence[AccountState]) -> dict[str, int]:
    """Return the requests that each was charged for this month at its current price."""
    keys = []
    for state in states:
        month, price_id = (state.tier_key or "0:").split(":", 1)
        keys.append((state.account, int(month), price_id))
    rows = await connection.fetch(_TIER_USES, *_TIERS.from_tuples(keys))
    return {row["account"]: row["requests"] for row in rows}


async def find_long_depleted(
    connection: Reader, since: datetime, limit: int, without: Iterable[str] = ()
) -> list[str]:
    """Return accounts that have been depleted since ``since`` and are not overdue yet."""
    rows = await connection.fetch(_LONG_DEPLETED, since, limit, list(without))
    return [row["account"] for row in rows]
