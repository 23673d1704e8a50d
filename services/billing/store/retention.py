"""Forgetting old usage (rule E3): half a year by the minute, over a year by the hour."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from services.billing.domain.units import UnixHour, first_minute, hour_of
from services.billing.store import MAINTENANCE_SECONDS, Reader
from services.billing.store.owners import lock_owners_shared
from shared.storage.pool import Pool

_OLDEST_ROLLED_UP: Final = """
select oldest.hour from (
    select min(minute) / 60 as hour from usage_minutes where minute < $1 and account <> ''
) oldest
where oldest.hour is not null
    and not exists (select from touched_hours t where t.hour = oldest.hour)
"""
_KEEP_MINUTES: Final = "update usage_kept set minutes_from = greatest(minutes_from, $1 + 1)"
_KEEP_HOURS: Final = "update usage_kept set hours_from = greatest(hours_from, $1 + 1)"
_FORGET_MINUTES: Final = """
delete from usage_minutes where minute >= $1 * 60 and minute < $1 * 60 + 60 and account <> ''
"""


class RetentionLimits(NamedTuple):
    """How far back usage is kept.

    ``minutes_from``: the first hour with all of its minutes; ``hours_from``: the first hour."""

    minutes_from: UnixHour
    hours_from: UnixHour


async def load_limits(connection: Reader) -> RetentionLimits:
    """Return how far back usage is kept now."""
    row = await connection.fetchrow("select minutes_from, hours_from from usage_kept")
    if row is None:
        raise LookupError("usage_kept has no row")
    return RetentionLimits(row["minutes_from"], row["hours_from"])


async def forget_minutes(pool: Pool, now: datetime, days: int) -> bool:
    """Delete the minutes of the oldest hour that is older than ``days``. False when none is.

    Only of an hour that is rolled up already. Usage without an owner stays: the owner may still
    become known."""
    # First the hour counts as no longer whole. A transaction that changes owners waits for this
    # lock and then sees that. After it no transaction needs the rows, so deleting them blocks none.
    oldest_kept = UnixHour(hour_of(now) - days * 24)
    hour = await pool.fetchval(
        _OLDEST_ROLLED_UP, first_minute(oldest_kept), timeout=MAINTENANCE_SECONDS
    )
    if hour is None:
        return False
    async with pool.acquire() as connection, connection.transaction():
        await lock_owners_shared(connection)
        await connection.execute(_KEEP_MINUTES, hour)
    await pool.execute(_FORGET_MINUTES, hour, timeout=MAINTENANCE_SECONDS)
    return True


async def forget_hours(pool: Pool, now: datetime, days: int) -> bool:
    """Delete the oldest hour when it is older than ``days``. False when it is not."""
    oldest_kept = hour_of(now) - days * 24
    hour = await pool.fetchval("select min(hour) from usage_hours where hour < $1", oldest_kept)
    if hour is None:
        return False
    await pool.execute(_KEEP_HOURS, hour)
    await pool.execute("delete from usage_hours where hour = $1", hour, timeout=MAINTENANCE_SECONDS)
    return True
