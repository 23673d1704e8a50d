"""What happens because time passes: hours are closed, who is depleted for long is overdue, what is
too old goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from services.billing.settings import Settings
from services.billing.store import partitions, retention
from services.billing.store.partitions import ArchiveMonths, RequestDays
from services.billing.usecases.money import MoneyCommands
from shared.clock import Clock
from shared.faults import describe, is_transient
from shared.storage.pool import Pool

log = structlog.get_logger()


class HourlyJobs:
    """One at a time, by lease. Three things beside each other: none waits for another, or ends with
    it."""

    def __init__(
        self,
        money: MoneyCommands,
        pool: Pool,
        months: ArchiveMonths,
        days: RequestDays,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._money, self._pool, self._months, self._days = money, pool, months, days
        self._clock, self._settings = clock, settings
        self._grace = timedelta(seconds=settings.billing_hour_grace_seconds)

    async def run(self, fencing: int) -> None:
        log.info("clock.runs", fencing=fencing)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._each_hour(self._close, self._grace))
            group.create_task(self._each_hour(self._clean, timedelta(0)))
            group.create_task(self._judge())

    async def _each_hour(
        self, work: Callable[[datetime], Awaitable[None]], grace: timedelta
    ) -> None:
        """``work`` on the time of each full hour, ``grace`` after it; again where a fault
        passes."""
        done = None
        while True:
            hour = (self._clock.now() - grace).replace(minute=0, second=0, microsecond=0)
            if (done is None or hour > done) and await _came_to_pass(work(hour)):
                done = hour
            await asyncio.sleep(1)

    async def _judge(self) -> None:
        while True:
            await _came_to_pass(self._money.judge_depleted())
            await asyncio.sleep(1)

    async def _close(self, hour: datetime) -> None:
        """Each hour that has ended its grace ago."""
        log.info("hour.closed", until=hour.isoformat(), lines=await self._money.close(hour))

    async def _clean(self, now: datetime) -> None:
        """Partitions that will be needed are made here, so that no lot has to wait for it."""
        await self._months.ensure_ahead(now)
        await self._days.ensure_ahead(now)
        dropped = await partitions.drop_old_months(
            self._pool, now
        ) + await partitions.drop_old_days(self._pool, now)
        while await retention.forget_minutes(
            self._pool, now, self._settings.billing_minutes_kept_days
        ):
            await asyncio.sleep(0)
        while await retention.forget_hours(self._pool, now, self._settings.billing_hours_kept_days):
            await asyncio.sleep(0)
        log.info("clock.cleaned", dropped=dropped)


async def _came_to_pass(work: Awaitable[object]) -> bool:
    """Whether it was done; a transient fault is written down."""
    try:
        await work
    except Exception as error:
        if not is_transient(error):
            raise
        log.warning("clock.later", error=describe(error))
        return False
    return True
