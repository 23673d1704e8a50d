"""An audit of a period: everything recomputed from the archive, and compared (rule E9).

It runs in one snapshot of the database, so that counting may go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple

from services.billing.domain.audit_compare import (
    AuditDifferences,
    BilledAccount,
    UsageCounts,
    UsageKey,
    UsageRecount,
    compare_charges,
    recharge_account,
)
from services.billing.domain.ownership import NOBODY, OwnershipPeriod, ownership_periods
from services.billing.domain.price_book import PriceLookup
from services.billing.domain.units import (
    UnixHour,
    day_of_hour,
    first_minute,
    format_hour,
    hour_of,
    month_start,
)
from services.billing.domain.usage_aggregator import usage_ends, valid_domain
from services.billing.domain.wire_format import CellRow, unpack_cells
from services.billing.store import audit as store
from services.billing.store import prices
from services.billing.store.audit import AccountHourRow
from services.billing.store.owners import load_ownership_events
from services.billing.store.partitions import archive_kept_from
from services.billing.store.retention import load_limits
from shared.contracts.audit import AuditReport, QueryAudit
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.money import plus
from shared.storage.pool import Connection, Pool

MAX_PERIOD: Final = timedelta(days=31)
_TOGETHER: Final = 200
"""Batches, or accounts, that are looked at together."""
_NO_COUNTS: Final[UsageCounts] = (0, 0, 0, 0)


class Auditor:
    """Answers the question for an audit."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_audit(self, question: QueryAudit, now: datetime) -> AuditReport:
        """Audit the hours from ``start`` to ``end``, at most up to the hour that runs."""
        start = question.start
        if start >= question.end or start.timestamp() % 3600 or question.end.timestamp() % 3600:
            raise _refused(Code.REQUEST_MALFORMED, "An audit is of whole hours, from before to.")
        end = min(question.end, usage_ends(now))
        if start >= end:
            raise _refused(
                Code.REQUEST_MALFORMED, "An audit is of what has been, not of what is to come."
            )
        if end - start > MAX_PERIOD:
            raise _refused(
                Code.REQUEST_TOO_LARGE, "An audit is of at most 31 days: ask month by month."
            )
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await _AuditRun(connection, start, end).run(now)


class _UnpackedBatch(NamedTuple):
    node: str
    cells: list[CellRow]
    received_at: datetime


class _MoneySums(NamedTuple):
    """Requests that were charged and that were not, and the charges by currency."""

    charged: int
    uncharged: int
    amounts: dict[str, Decimal]


class _AuditRun:
    """One audit, in the snapshot of ``connection``."""

    def __init__(self, connection: Connection, start: datetime, end: datetime) -> None:
        self._connection = connection
        self._start = start
        self._end = end
        self._first_hour = hour_of(start)
        self._end_hour = hour_of(end)
        self._recount = UsageRecount(first_minute(self._first_hour), first_minute(self._end_hour))
        self._differences = AuditDifferences()
        self._owners: dict[str, tuple[OwnershipPeriod, ...]] = {}
        self._compared_from = self._first_hour
        self._batches = 0
        self._events = 0
        self._bad_lines = 0

    async def run(self, now: datetime) -> AuditReport:
        """Recompute, compare, and report.

        Hours that are older than the archive, or than the hours that are kept, are not compared."""
        limits = await load_limits(self._connection)
        archive_from = hour_of(archive_kept_from(now))
        self._compared_from = max(self._first_hour, archive_from, limits.hours_from)
        await self._count_archive()
        await self._count_events()
        await self._compare_usage(limits.minutes_from)
        money = await self._compare_money()
        await self._compare_rest()
        return self._make_report(money)

    def _make_report(self, money: _MoneySums) -> AuditReport:
        requests = 0
        size = 0
        unattributed = 0
        for key, counts in self._recount.usage.items():
            requests += counts[0]
            size += counts[1]
            if key.account == NOBODY:
                unattributed += counts[0]
        return AuditReport(
            start=self._start,
            end=self._end,
            agrees=not self._differences.differing,
            complete=self._compared_from == self._first_hour,
            batches=self._batches,
            single_events=self._events,
            bad_lines=self._bad_lines,
            requests=requests,
            bytes=size,
            unattributed=unattributed,
            diverted=self._recount.diverted,
            charged=money.charged,
            uncharged=money.uncharged,
            amounts=money.amounts,
            differing=self._differences.differing,
            differences=self._differences.shown,
        )

    async def _count_archive(self) -> None:
        waiting: list[_UnpackedBatch] = []
        async for batch in store.read_archive(self._connection, self._start, self._end):
            self._batches += 1
            if self._start <= batch.received_at < self._end:
                self._bad_lines += batch.bad_lines
            # An audit may last minutes: a thread, and the sleeps below, let the consumers go on.
            cells = await asyncio.to_thread(unpack_cells, batch.cells)
            waiting.append(_UnpackedBatch(batch.node, cells, batch.received_at))
            if len(waiting) >= _TOGETHER:
                await self._add_batches(waiting)
                waiting = []
        await self._add_batches(waiting)

    async def _add_batches(self, batches: Sequence[_UnpackedBatch]) -> None:
        await self._load_owners(cell[0] for batch in batches for cell in batch.cells)
        for batch in batches:
            self._recount.add_batch(batch.node, batch.cells, self._owners, batch.received_at)
            await asyncio.sleep(0)

    async def _count_events(self) -> None:
        events = []
        async for event in store.read_single_events(
            self._connection, self._recount.start, self._recount.end
        ):
            events.append(event)
        await self._load_owners(event.domain for event in events)
        for event in events:
            self._events += event.requests
            counts = (event.requests, event.bytes, 0, 0)
            self._recount.add_counts(event.domain, event.minute, event.node, counts, self._owners)

    async def _load_owners(self, domains: Iterable[str]) -> None:
        unknown = set(domains) - self._owners.keys()
        missing = [domain for domain in unknown if valid_domain(domain)]
        if not missing:
            return
        events = await load_ownership_events(self._connection, missing)
        for domain in missing:
            self._owners[domain] = ownership_periods(events.get(domain, ()))

    async def _compare_usage(self, minutes_from: UnixHour) -> None:
        by_minute, by_hour = await store.load_recorded_usage(
            self._connection, self._compared_from, self._end_hour, minutes_from
        )
        recomputed = {}
        for key, sums in self._recount.usage.items():
            if key.hour >= self._compared_from:
                recomputed[_place(key)] = tuple(sums)
        hours_by_minute = {key.hour for key in by_minute}
        recorded = {_place(key): counts for key, counts in by_minute.items()}
        for key, counts in by_hour.items():
            if key.hour not in hours_by_minute:
                recorded[_place(key)] = counts
        self._differences.compare_by_place("usage", recomputed, recorded, _NO_COUNTS)
        # Hours that are there in both forms must also agree with each other.
        in_both = hours_by_minute & {key.hour for key in by_hour}
        self._differences.compare_by_place(
            "usage",
            _places_by_hour(by_minute, in_both),
            _places_by_hour(by_hour, in_both),
            _NO_COUNTS,
        )

    async def _compare_money(self) -> _MoneySums:
        rows = await store.load_account_hours(self._connection, self._first_hour, self._end_hour)
        self._compare_accrual(rows)
        current = await prices.load_current_prices(self._connection)
        charged = 0
        amounts: dict[str, Decimal] = defaultdict(Decimal)
        names = sorted({row.account for row in rows})
        for some in _in_parts(names):
            for billed in await store.load_billed_accounts(
                self._connection, some, month_start(self._first_hour)
            ):
                charged += self._recharge(billed, current, amounts)
            await asyncio.sleep(0)
        uncharged = sum(row.requests - row.charged for row in rows)
        return _MoneySums(charged, uncharged, dict(amounts))

    def _compare_accrual(self, rows: Iterable[AccountHourRow]) -> None:
        recomputed = {}
        for (account, hour), requests in self._recount.accrued_requests().items():
            if hour >= self._compared_from:
                recomputed[f"{account} {format_hour(hour)}"] = requests
        recorded = {}
        for row in rows:
            if row.hour >= self._compared_from:
                recorded[f"{row.account} {format_hour(row.hour)}"] = row.requests
        self._differences.compare_by_place("accrual", recomputed, recorded, 0)

    def _recharge(
        self, billed: BilledAccount, current: PriceLookup, amounts: dict[str, Decimal]
    ) -> int:
        """Compare an account's charges. Add those of the period to ``amounts``; return their
        requests."""
        tariff_at = partial(current.tariff_at, billed.account, billed.currency)
        lines = recharge_account(billed, tariff_at)
        compare_charges(billed, lines, self._differences)
        charged = 0
        for line in lines:
            if self._first_hour <= line.hour < self._end_hour:
                charged += line.requests
                amounts[billed.currency] = plus(amounts[billed.currency], line.amount)
        return charged

    async def _compare_rest(self) -> None:
        add_difference = self._differences.add_difference
        connection = self._connection
        for log, expected, start in await store.find_archive_holes(
            connection, self._start, self._end
        ):
            add_difference("archive", log, expected, start)
        for identity, times in await store.find_double_counts(
            connection, day_of_hour(self._first_hour), day_of_hour(self._end_hour)
        ):
            add_difference("identity", identity, 1, times)
        for plan, price, parts in await store.find_wrong_plan_costs(
            connection, self._first_hour, self._end_hour
        ):
            add_difference("amount", plan, price, parts)
        for account, lines, recorded in await store.find_wrong_ledgers(connection):
            add_difference("ledger", account, lines, recorded)


def _refused(code: Code, text: str) -> Refused:
    return Refused([finding(code, text)])


def _in_parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), _TOGETHER):
        yield names[at : at + _TOGETHER]


def _place(key: UsageKey) -> str:
    return f"{key.account or 'nobody'} {key.domain} {key.node} {format_hour(key.hour)}"


def _places_by_hour(
    usage: Mapping[UsageKey, UsageCounts], hours: set[UnixHour]
) -> dict[str, UsageCounts]:
    return {
        f"by the hour: {_place(key)}": counts for key, counts in usage.items() if key.hour in hours
    }
