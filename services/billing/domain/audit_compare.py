"""Comparing what was recorded with usage and charges recomputed from the archive (rule E9).

``usecases/audit.py`` reads both sides in one snapshot and compares them here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from services.billing.domain.charging import BoughtPlan, ChargeLine, HourCount, charge_hours
from services.billing.domain.ownership import NOBODY, OwnershipPeriod, owner_at
from services.billing.domain.rating import Tariff
from services.billing.domain.units import (
    UnixHour,
    UnixMinute,
    format_hour,
    hour_of_minute,
    minute_of,
    month_of,
)
from services.billing.domain.usage_aggregator import AccountHour, minute_fault
from services.billing.domain.wire_format import CellRow
from shared.contracts.audit import AuditDifference
from shared.money import plus

MAX_SHOWN: Final = 100
DifferenceKind = Literal["usage", "accrual", "charged", "amount", "identity", "ledger", "archive"]
UsageCounts = tuple[int, int, int, int]
"""HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes."""


class UsageKey(NamedTuple):
    """The account, domain, node and hour that usage is counted for."""

    account: str
    domain: str
    node: str
    hour: UnixHour


@dataclass
class AuditDifferences:
    """The differences found. ``differing`` counts all; ``shown`` keeps the first MAX_SHOWN."""

    differing: int = 0
    shown: list[AuditDifference] = field(default_factory=list)

    def add_difference(
        self, kind: DifferenceKind, place: str, recomputed: object, recorded: object
    ) -> None:
        self.differing += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(
                AuditDifference(
                    what=kind, place=place, recomputed=f"{recomputed}", recorded=f"{recorded}"
                )
            )

    def compare_by_place(
        self,
        kind: DifferenceKind,
        recomputed: Mapping[str, object],
        recorded: Mapping[str, object],
        nothing: object,
    ) -> None:
        """Add a difference for each place with two values. ``nothing``: the value of a place that
        one side does not have."""
        for place in sorted(recomputed.keys() | recorded.keys()):
            ours = recomputed.get(place, nothing)
            theirs = recorded.get(place, nothing)
            if ours != theirs:
                self.add_difference(kind, place, ours, theirs)


def _no_counts() -> dict[UsageKey, list[int]]:
    return defaultdict(lambda: [0, 0, 0, 0])


@dataclass
class UsageRecount:
    """The usage of the minutes [start, end), added up anew. ``diverted``: cells not counted."""

    start: UnixMinute
    end: UnixMinute
    usage: dict[UsageKey, list[int]] = field(default_factory=_no_counts)
    diverted: int = 0

    def add_batch(
        self,
        node: str,
        cells: Iterable[CellRow],
        owners: Mapping[str, Sequence[OwnershipPeriod]],
        received: datetime,
    ) -> None:
        """Add an archived batch by the rules of the moment when it was received.

        ``owners``: an entry for each valid domain."""
        now_minute = minute_of(received)
        for domain, minute, https_requests, https_bytes, http_requests, http_bytes in cells:
            if not self.start <= minute < self.end:
                continue
            if domain not in owners or minute_fault(minute, now_minute) is not None:
                self.diverted += 1
                continue
            counts = (https_requests, https_bytes, http_requests, http_bytes)
            self.add_counts(domain, minute, node, counts, owners)

    def add_counts(
        self,
        domain: str,
        minute: UnixMinute,
        node: str,
        counts: UsageCounts,
        owners: Mapping[str, Sequence[OwnershipPeriod]],
    ) -> None:
        """Add counts to the account that owned the domain in that minute."""
        account = owner_at(owners.get(domain, ()), minute)
        sums = self.usage[UsageKey(account, domain, node, hour_of_minute(minute))]
        for index, count in enumerate(counts):
            sums[index] += count

    def accrued_requests(self) -> dict[AccountHour, int]:
        """Return HTTPS requests by account and hour, without usage without an owner."""
        accrued: dict[AccountHour, int] = defaultdict(int)
        for key, counts in self.usage.items():
            if key.account != NOBODY and counts[0]:
                accrued[key.account, key.hour] += counts[0]
        return accrued


class RecordedLine(NamedTuple):
    """The ledger lines of one hour, price and plan, added up."""

    hour: UnixHour
    requests: int
    amount: Decimal
    price_id: str | None
    plan: str | None


@dataclass
class BilledAccount:
    """The charged hours, plans and ledger lines of an account, from where its rating begins."""

    account: str
    currency: str
    hours: list[HourCount] = field(default_factory=list)
    plans: list[BoughtPlan] = field(default_factory=list)
    lines: list[RecordedLine] = field(default_factory=list)


def recharge_account(
    billed: BilledAccount, tariff_at: Callable[[UnixHour], Tariff]
) -> list[ChargeLine]:
    """Return the account's lines as if everything that was charged had come at once."""
    hours = []
    for count in billed.hours:
        hours.append(replace(count, requests=count.charged, charged=0, postings=0, covered={}))
    left = {plan.reference: plan.requests for plan in billed.plans}
    return charge_hours(hours, billed.plans, left, {}, tariff_at)


def compare_charges(
    billed: BilledAccount, lines: Sequence[ChargeLine], differences: AuditDifferences
) -> None:
    """Compare requests by hour and plan, and money by month and price.

    The order in which requests came moves money between the hours of a month, never between months
    or prices."""
    our_requests: dict[str, int] = defaultdict(int)
    our_money: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        our_requests[_hour_and_plan(billed, line.hour, line.plan)] += line.requests
        price = _month_and_price(billed, line.hour, line.price_id, line.plan)
        our_money[price] = plus(our_money[price], line.amount)
    their_requests: dict[str, int] = defaultdict(int)
    their_money: dict[str, Decimal] = defaultdict(Decimal)
    for recorded in billed.lines:
        their_requests[_hour_and_plan(billed, recorded.hour, recorded.plan)] += recorded.requests
        # The very first lines were written without the id of a price: it was the list price.
        price_id = recorded.price_id or f"list-{billed.currency.lower()}"
        price = _month_and_price(billed, recorded.hour, price_id, recorded.plan)
        their_money[price] = plus(their_money[price], recorded.amount)
    differences.compare_by_place("charged", our_requests, their_requests, 0)
    differences.compare_by_place("amount", our_money, their_money, Decimal(0))


def _hour_and_plan(billed: BilledAccount, hour: UnixHour, plan: str | None) -> str:
    return f"{billed.account} {format_hour(hour)} {plan or 'pay as you go'}"


def _month_and_price(
    billed: BilledAccount, hour: UnixHour, price_id: str | None, plan: str | None
) -> str:
    month = month_of(hour)
    name = f"plan {plan}" if plan else price_id
    return f"{billed.account} {month // 12:04}-{month % 12 + 1:02} {name}"
