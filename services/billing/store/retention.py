"""How long usage can be looked back at (rule E3): half a year by the minute, a year by the hour."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from shared.storage.pool import Pool

_MINUTES: Final = """
with old as (
    select (minute / 60) as hour from usage_minutes
    where minute < $1 and account <> '' and minute / 60 not in (select hour from touched_hours)
    order by minute limit 1
)
delete from usage_minutes u using old
where u.minute >= old.hour * 60 and u.minute < old.hour * 60 + 60 and u.account <> ''
"""


async def forget_minutes(pool: Pool, now: datetime, days: int) -> bool:
    """One hour that is rolled up already and older than ``days``; whether there was one. What nobody owns stays: an
    owner may still be told of."""
    cutoff = int(now.timestamp()) // 60 - days * 1440
    return _any(await pool.execute(_MINUTES, cutoff - cutoff % 60))


async def forget_hours(pool: Pool, now: datetime, days: int) -> bool:
    cutoff = int(now.timestamp()) // 3600 - days * 24
    return _any(await pool.execute(
        "delete from usage_hours where hour in (select hour from usage_hours where hour < $1 order by hour limit 1)",
        cutoff,
    ))


def _any(done: str) -> bool:
    return not done.endswith(" 0")
