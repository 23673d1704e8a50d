"""An audit of a period: everything recomputed from the archive in one snapshot, and compared (rule
E9)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from services.billing.domain.audit_compare import (
    AuditDifferences,
    BilledAccount,
    UsageKey,
    UsageRecount,
    compare_charges,
    format_hour,
    recharge_account,
)
from services.billing.domain.ownership import NOBODY, OwnershipPeriod, ownership_periods
from services.billing.domain.price_book import PriceLookup
from services.billing.domain.usage_aggregator import usage_ends, valid_domain
from services.billing.domain.wire_format import CellRow, unpack_cells
from services.billing.store import audit as store
from services.billing.store import owners as owner_store
from services.billing.store import prices
from services.billing.store.partitions import archive_kept_from
from services.billing.store.retention import load_limits
from shared.contracts.audit import AuditReport, QueryAudit
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.money import plus
from shared.storage.pool import Connection, Pool

MAX_PERIOD: Final = timedelta(days=31)
_CHUNK: Final = 200


class Auditor:
    """``audit`` answers one question; the service goes on meanwhile."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def audit(self, question: QueryAudit, now: datetime) -> AuditReport:
        start, end = question.start, question.end
        if start >= end or any(at.timestamp() % 3600 for at in (start, end)):
            raise Refused(
                [finding(Code.REQUEST_MALFORMED, "An audit is of whole hours, from before to.")]
            )
        end = min(end, usage_ends(now))
        if start >= end:
            raise Refused(
                [
                    finding(
                        Code.REQUEST_MALFORMED,
                        "An audit is of what has been, not of what is to come.",
                    )
                ]
            )
        if end - start > MAX_PERIOD:
            raise Refused(
                [
                    finding(
                        Code.REQUEST_TOO_LARGE,
                        "An audit is of at most 31 days: ask month by month.",
                    )
                ]
            )
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await _AuditRun(connection, start, end).run(now)


class _AuditRun:
    def __init__(self, connection: Connection, start: datetime, end: datetime) -> None:
        self._connection, self._start, self._end = connection, start, end
        self._hours = int(start.timestamp()) // 3600, int(end.timestamp()) // 3600
        self._recount = UsageRecount(self._hours[0] * 60, self._hours[1] * 60)
        self._findings = AuditDifferences()
        self._owners: dict[str, tuple[OwnershipPeriod, ...]] = {}
        self._whole_from = self._hours[0]
        self._batches = self._events = self._bad_lines = 0

    async def run(self, now: datetime) -> AuditReport:
        """What is older than the archive, or than the hours that are kept, is not compared."""
        archive_from = int(archive_kept_from(now).timestamp()) // 3600
        still = await load_limits(self._connection)
        self._whole_from = max(self._hours[0], archive_from, still.hours_from)
        await self._count_archive()
        await self._count_events()
        await self._compare_usage(still.minutes_from)
        charged, uncharged, amounts = await self._compare_money()
        await self._compare_rest()
        usage = self._recount.usage
        return AuditReport(
            start=self._start,
            end=self._end,
            agrees=not self._findings.differing,
            complete=self._whole_from == self._hours[0],
            batches=self._batches,
            single_events=self._events,
            bad_lines=self._bad_lines,
            requests=sum(counts[0] for counts in usage.values()),
            bytes=sum(counts[1] for counts in usage.values()),
            unattributed=sum(
                counts[0] for place, counts in usage.items() if place.account == NOBODY
            ),
            diverted=self._recount.diverted,
            charged=charged,
            uncharged=uncharged,
            amounts=amounts,
            differing=self._findings.differing,
            differences=self._findings.shown,
        )

    async def _count_archive(self) -> None:
        waiting: list[tuple[str, list[CellRow], datetime]] = []
        async for node, cells, received, bad_lines in store.read_archive(
            self._connection, self._start, self._end
        ):
            self._batches += 1
            self._bad_lines += bad_lines if self._start <= received < self._end else 0
            waiting.append((node, await asyncio.to_thread(unpack_cells, cells), received))
            if len(waiting) >= _CHUNK:
                await self._add(waiting)
                waiting = []
        await self._add(waiting)

    async def _add(self, batches: list[tuple[str, list[CellRow], datetime]]) -> None:
        await self._learn({cell[0] for _, cells, _ in batches for cell in cells})
        for node, cells, received in batches:
            self._recount.add(node, cells, self._owners, received)
            await asyncio.sleep(0)

    async def _count_events(self) -> None:
        found = [
            event
            async for event in store.read_single_events(
                self._connection, self._recount.first, self._recount.past
            )
        ]
        await self._learn({domain for domain, *_ in found})
        for domain, minute, node, requests, size in found:
            self._events += requests
            self._recount.count(domain, minute, node, (requests, size, 0, 0), self._owners)

    async def _learn(self, domains: set[str]) -> None:
        missing = [domain for domain in domains - self._owners.keys() if valid_domain(domain)]
        facts = (
            await owner_store.load_ownership_events(self._connection, missing) if missing else {}
        )
        for domain in missing:
            self._owners[domain] = ownership_periods(facts.get(domain, ()))

    async def _compare_usage(self, minutes_from: int) -> None:
        minutes, hours = await store.load_recorded_usage(
            self._connection, self._whole_from, self._hours[1], minutes_from
        )
        ours = {
            _say(place): tuple(counts)
            for place, counts in self._recount.usage.items()
            if place.hour >= self._whole_from
        }
        by_minute = _hours_of(minutes)
        whole = minutes | {
            place: counts for place, counts in hours.items() if place.hour not in by_minute
        }
        self._findings.compare(
            "usage", ours, {_say(place): counts for place, counts in whole.items()}, (0, 0, 0, 0)
        )
        both = by_minute & _hours_of(hours)
        self._findings.compare(
            "usage",
            {f"by the hour: {_say(p)}": c for p, c in minutes.items() if p.hour in both},
            {f"by the hour: {_say(p)}": c for p, c in hours.items() if p.hour in both},
            (0, 0, 0, 0),
        )

    async def _compare_money(self) -> tuple[int, int, dict[str, Decimal]]:
        rows = await store.load_account_hours(self._connection, *self._hours)
        ours, theirs = (
            {
                f"{account} {format_hour(hour)}": n
                for account, hour, n in counts
                if hour >= self._whole_from
            }
            for counts in (
                [(*key, n) for key, n in self._recount.accrued.items()],
                [row[:3] for row in rows],
            )
        )
        self._findings.compare("accrual", ours, theirs, 0)
        book = await prices.load_current_prices(self._connection)
        charged, amounts = 0, defaultdict[str, Decimal](Decimal)
        names = sorted({account for account, *_ in rows})
        for at in range(0, len(names), _CHUNK):
            chunk = names[at : at + _CHUNK]
            for billed in await store.load_billed_accounts(
                self._connection, chunk, store.month_start(self._hours[0])
            ):
                charged += self._recharge(billed, book, amounts)
            await asyncio.sleep(0)
        return charged, sum(n - done for _, _, n, done in rows), dict(amounts)

    def _recharge(
        self, billed: BilledAccount, book: PriceLookup, amounts: dict[str, Decimal]
    ) -> int:
        lines = recharge_account(billed, partial(book.tariff, billed.account, billed.currency))
        compare_charges(billed, lines, self._findings)
        inside = [line for line in lines if self._hours[0] <= line.hour < self._hours[1]]
        for line in inside:
            amounts[billed.currency] = plus(amounts[billed.currency], line.amount)
        return sum(line.requests for line in inside)

    async def _compare_rest(self) -> None:
        for log, expected, start in await store.find_archive_holes(
            self._connection, self._start, self._end
        ):
            self._findings.note("archive", log, expected, start)
        first, last = (hour // 24 for hour in self._hours)
        for identity, times in await store.find_double_counts(self._connection, first, last):
            self._findings.note("identity", identity, 1, times)
        for plan, price, parts in await store.find_wrong_plan_costs(self._connection, *self._hours):
            self._findings.note("amount", plan, price, parts)
        for account, lines, recorded in await store.find_wrong_ledgers(self._connection):
            self._findings.note("ledger", account, lines, recorded)


def _say(place: UsageKey) -> str:
    return f"{place.account or 'nobody'} {place.domain} {place.node} {format_hour(place.hour)}"


def _hours_of(usage: dict[UsageKey, tuple[int, int, int, int]]) -> set[int]:
    return {place.hour for place in usage}
