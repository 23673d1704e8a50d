"""What happens because time passes: hours are closed, what is too old goes, who is depleted for long is overdue."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from services.billing.settings import Settings
from services.billing.store import partitions, retention
from services.billing.store.partitions import Days
from services.billing.usecases import Money
from shared.clock import Clock
from shared.storage.pool import Pool

log = structlog.get_logger()


class HourClock:
    """Closes each hour its grace after its end; one at a time, by lease."""

    def __init__(self, money: Money, pool: Pool, days: Days, clock: Clock, settings: Settings) -> None:
        self._money, self._pool, self._days, self._clock, self._settings = money, pool, days, clock, settings

    async def run(self, fencing: int) -> None:
        closed, grace = None, timedelta(seconds=self._settings.billing_hour_grace_seconds)
        while True:
            now = self._clock.now()
            until = (now - grace).replace(minute=0, second=0, microsecond=0)
            if closed is None or until > closed:
                lines = await self._money.close(until)
                dropped = await self._clean(now)
                log.info("hour.closed", until=until.isoformat(), lines=lines, dropped=dropped, fencing=fencing)
                closed = until
            await self._money.judge_depleted()
            await asyncio.sleep(1)

    async def _clean(self, now: datetime) -> list[str]:
        """Today's and tomorrow's days are made here, so that no lot has to wait for it."""
        today = int(now.timestamp()) // 86_400
        self._days.forget(today - partitions.DAYS_KEPT)
        await self._days.ensure({today, today + 1})
        dropped = []
        for drop in (partitions.drop_old, partitions.drop_days):
            async with self._pool.acquire() as connection, connection.transaction():
                dropped += await drop(connection, now)
        while await retention.forget_minutes(self._pool, now, self._settings.billing_minutes_kept_days):
            await asyncio.sleep(0)
        while await retention.forget_hours(self._pool, now, self._settings.billing_hours_kept_days):
            await asyncio.sleep(0)
        return dropped
