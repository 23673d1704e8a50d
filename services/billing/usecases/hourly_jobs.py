"""When an hour is charged, and the other jobs of passing time.

An hour of usage is charged ``EDGETLS_BILLING_HOUR_GRACE_SECONDS`` (180 s) after its end, or by the
command ``hour.close``. ``HourCharging.close_hours`` charges all that is not charged yet up to then:
late usage of earlier hours becomes a correction of its hour (rule E4). The computation of the
ledger lines is ``domain/charging.py``.

``HourlyJobs`` runs three jobs beside each other; none waits for another one:

- each hour, after the grace: close it;
- each hour, at once: create partitions ahead, drop old ones, forget usage past its retention;
- each second: find accounts that have been depleted for too long (rule E7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

import structlog

from services.billing.domain.balance import AccountState, PricingContext
from services.billing.domain.charging import ChargeLine, charge_hours
from services.billing.domain.units import UnixHour, hour_of
from services.billing.metrics import CHARGES, NOT_CHARGED
from services.billing.settings import BillingSettings
from services.billing.store import accounts, ledger, partitions, plans, retention, usage
from services.billing.store.partitions import ArchiveMonths, RequestDays
from services.billing.usecases.accrue import decide_and_save
from services.billing.usecases.isolate_failures import ACCOUNTS_TOGETHER, isolate_failures
from services.billing.usecases.reference_cache import ReferenceCache
from shared.clock import Clock
from shared.faults import describe
from shared.money import minus, total
from shared.retry import every, run_together
from shared.storage.pool import Connection, Pool

log = structlog.get_logger()
_LOOK_SECONDS = 1.0


class HourCharging:
    """Charges hours, and rolls their usage up."""

    def __init__(self, pool: Pool, cache: ReferenceCache, clock: Clock) -> None:
        self._pool = pool
        self._cache = cache
        self._clock = clock

    async def close_hours(self, until: datetime) -> int:
        """Charge what is not charged yet of the hours that end at or before ``until``.

        Return the number of ledger lines written. A second call finds nothing left to do."""
        end = hour_of(until)
        lines = 0
        failed: set[str] = set()
        while names := await accounts.find_accounts_to_charge(
            self._pool, end, ACCOUNTS_TOGETHER, failed
        ):
            lines += await isolate_failures(names, partial(self._charge_accounts, end=end), failed)
        NOT_CHARGED.set(len(failed))
        for hour in await usage.find_hours_to_roll(self._pool, end):
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read"),
            ):
                await usage.roll_hour(connection, hour)
        return lines

    async def _charge_accounts(self, names: list[str], end: UnixHour) -> int:
        """Charge the hours of accounts before ``end`` in one transaction."""
        now = self._clock.now()
        made: dict[str, list[ChargeLine]] = {}
        async with self._pool.acquire() as connection, connection.transaction():
            # The lock of owners keeps prices and owners unchanged. The locks of accounts keep their
            # hours, plans and ledger lines unchanged: each transaction that writes those takes the
            # account's lock first. So the inputs, the lines and the new states fit together.
            await self._cache.refresh(connection)
            pricing = self._cache.pricing_at(now)
            states = await accounts.lock_accounts(connection, names, pricing)
            since = await accounts.first_hours_to_rate(connection, names, end)
            inputs = await plans.load_charge_inputs(connection, since, end)
            for name, one in inputs.items():
                tariff_at = partial(pricing.prices.tariff_at, name, states[name].rating_currency)
                made[name] = charge_hours(one.hours, one.plans, one.left, one.used, tariff_at)
            currencies = {name: state.rating_currency for name, state in states.items()}
            await ledger.post_lines(connection, made, currencies, now)
            await plans.record_plan_uses(connection, made, inputs)
            forfeited = await plans.forfeit_plans(connection, names, made, end, now)
            await plans.end_plans(connection, names, end)
            after = await _states_after_charge(connection, states, made, forfeited, end, pricing)
            await decide_and_save(connection, after, pricing)
        CHARGES.labels(kind="unused").inc(sum(forfeited.values()))
        written = 0
        for lines in made.values():
            written += len(lines)
            for line in lines:
                CHARGES.labels(kind="charge" if line.posting == 1 else "correction").inc()
        return written


async def _states_after_charge(
    connection: Connection,
    states: Mapping[str, AccountState],
    made: Mapping[str, list[ChargeLine]],
    forfeited: Mapping[str, int],
    end: UnixHour,
    pricing: PricingContext,
) -> list[AccountState]:
    """Return locked accounts after their lines are posted.

    What was accrued is in the ledger now, and the low limit moves. The first charge sets the
    currency. ``forfeited``: ledger lines of plans that ended, by account."""
    names = list(states)
    recent = await accounts.load_recent_charges(connection, names)
    plan_left = await plans.load_requests_left(connection, names, pricing.hour)
    tier_used = await accounts.load_tier_uses(connection, list(states.values()))
    after = []
    for name, state in states.items():
        lines = made.get(name, [])
        charged = sum(line.requests for line in lines)
        amount = total(line.amount for line in lines)
        recent_amount, recent_hours = recent[name]
        # A plan that starts after these hours is rated with a later close.
        is_rated_later = state.rate_from is not None and state.rate_from >= end
        after.append(
            state._replace(
                currency=state.rating_currency if lines else state.currency,
                entries=state.entries + len(lines) + forfeited.get(name, 0),
                accrued_requests=state.accrued_requests - charged,
                ledger=minus(state.ledger, amount),
                recent_amount=recent_amount,
                recent_hours=recent_hours,
                plan_left=plan_left.get(name, 0),
                tier_used=tier_used.get(name, 0),
                rate_from=state.rate_from if is_rated_later else None,
            )
        )
    return after


class HourlyJobs:
    """Runs the jobs of passing time: one process at a time, by lease."""

    def __init__(
        self,
        charging: HourCharging,
        pool: Pool,
        cache: ReferenceCache,
        months: ArchiveMonths,
        days: RequestDays,
        clock: Clock,
        settings: BillingSettings,
    ) -> None:
        self._charging = charging
        self._pool = pool
        self._cache = cache
        self._months = months
        self._days = days
        self._clock = clock
        self._settings = settings
        self._grace = timedelta(seconds=settings.billing_hour_grace_seconds)

    async def run(self, fencing: int) -> None:
        """Run the jobs until the lease is lost."""
        log.info("hourly_jobs.started", fencing=fencing)
        await run_together(
            self._each_hour(self._close_hour, self._grace),
            self._each_hour(self._tidy_up, timedelta(0)),
            every(_LOOK_SECONDS, self._find_overdue, on_fault=_log_postponed),
        )

    async def _each_hour(
        self, job: Callable[[datetime], Awaitable[None]], grace: timedelta
    ) -> None:
        """Do ``job`` once for each full hour, ``grace`` after its end. A transient fault leaves the
        hour to the next look."""
        done: datetime | None = None

        async def do_if_due() -> None:
            nonlocal done
            now = self._clock.now() - grace
            hour = now.replace(minute=0, second=0, microsecond=0)
            if done is None or hour > done:
                await job(hour)
                done = hour

        await every(_LOOK_SECONDS, do_if_due, on_fault=_log_postponed)

    async def _close_hour(self, until: datetime) -> None:
        lines = await self._charging.close_hours(until)
        log.info("hour.closed", until=until.isoformat(), lines=lines)

    async def _tidy_up(self, now: datetime) -> None:
        """Partitions are created here, before they are needed: no batch has to wait for it."""
        await self._months.ensure_ahead(now)
        await self._days.ensure_ahead(now)
        dropped = await partitions.drop_old_months(self._pool, now)
        dropped += await partitions.drop_old_days(self._pool, now)
        minutes_kept = self._settings.billing_minutes_kept_days
        while await retention.forget_minutes(self._pool, now, minutes_kept):
            await asyncio.sleep(0)
        hours_kept = self._settings.billing_hours_kept_days
        while await retention.forget_hours(self._pool, now, hours_kept):
            await asyncio.sleep(0)
        log.info("old_usage.removed", partitions=dropped)

    async def _find_overdue(self) -> None:
        """Decide the flags of accounts that have been depleted for too long.

        Nothing else does: their balance does not move."""
        since = self._clock.now() - self._cache.overdue_after
        seen: set[str] = set()
        while names := await accounts.find_long_depleted(
            self._pool, since, ACCOUNTS_TOGETHER, seen
        ):
            await isolate_failures(names, self._decide_flags, seen)
            seen.update(names)

    async def _decide_flags(self, names: list[str]) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._cache.refresh(connection)
            pricing = self._cache.pricing_at(self._clock.now())
            states = await accounts.lock_accounts(connection, names, pricing)
            await decide_and_save(connection, list(states.values()), pricing)
        return len(names)


def _log_postponed(error: Exception) -> None:
    log.warning("hourly_job.postponed", error=describe(error))
