"""How long usage can be looked back at (rule E3): half a year by the minute, a year by the hour."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from services.billing.store import MAINTENANCE_SECONDS, Reader
from services.billing.store.owners import lock_owners_shared
from shared.storage.pool import Pool

_OLDEST: Final = """
select oldest.hour from (select min(minute) / 60 as hour from usage_minutes where minute < $1
  and account <> '') oldest
where oldest.hour is not null and not exists (select from touched_hours t
where t.hour = oldest.hour)
"""


class RetentionLimits(NamedTuple):
    """The first hour whose minutes are whole, and the first hour that is."""

    minutes_from: int
    hours_from: int


async def load_limits(connection: Reader) -> RetentionLimits:
    row = await connection.fetchrow("select minutes_from, hours_from from usage_kept")
    if row is None:
        raise LookupError("usage_kept has no row")
    return RetentionLimits(*row)


async def forget_minutes(pool: Pool, now: datetime, days: int) -> bool:
    """The oldest hour, where it is rolled up already and older than ``days``; whether it was. What
    nobody owns stays: an owner may still be told of.

    First the hour is no longer whole, which whoever changes owners sees; then nobody waits for what
    is deleted."""
    cutoff = int(now.timestamp()) // 60 - days * 1440
    hour = await pool.fetchval(_OLDEST, cutoff - cutoff % 60, timeout=MAINTENANCE_SECONDS)
    if hour is None:
        return False
    async with pool.acquire() as connection, connection.transaction():
        await lock_owners_shared(connection)
        await connection.execute(
            "update usage_kept set minutes_from = greatest(minutes_from, $1 + 1)", hour
        )
    await pool.execute(
        "delete from usage_minutes where minute >= $1 * 60 and minute < $1 * 60 + 60 and "
        "account <> ''",
        hour,
        timeout=MAINTENANCE_SECONDS,
    )
    return True


async def forget_hours(pool: Pool, now: datetime, days: int) -> bool:
    """The oldest hour, where it is older than ``days``; whether it was."""
    cutoff = int(now.timestamp()) // 3600 - days * 24
    hour = await pool.fetchval("select min(hour) from usage_hours where hour < $1", cutoff)
    if hour is None:
        return False
    await pool.execute("update usage_kept set hours_from = greatest(hours_from, $1 + 1)", hour)
    await pool.execute("delete from usage_hours where hour = $1", hour, timeout=MAINTENANCE_SECONDS)
    return True
