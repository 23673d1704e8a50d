"""Usage and charges recomputed from what was archived, and compared with what was recorded (rule
E9). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from services.billing.domain.charging import BoughtPlan, ChargeLine, HourCount, charge_hours
from services.billing.domain.ownership import NOBODY, OwnershipPeriod, owner_at
from services.billing.domain.rating import Tariff, month_of
from services.billing.domain.usage_aggregator import minute_fault
from services.billing.domain.wire_format import CellRow
from shared.contracts.audit import Difference
from shared.money import plus

MAX_SHOWN: Final = 100
DifferenceKind = Literal["usage", "accrual", "charged", "amount", "identity", "ledger", "archive"]
UsageCounts = tuple[int, int, int, int]
"""HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes."""


class UsageKey(NamedTuple):
    """Where usage was counted; hours of Unix time."""

    account: str
    domain: str
    node: str
    hour: int


@dataclass
class AuditDifferences:
    """``differing`` counts all; the first SHOWN are kept."""

    differing: int = 0
    shown: list[Difference] = field(default_factory=list)

    def note(self, what: DifferenceKind, place: str, recomputed: object, recorded: object) -> None:
        self.differing += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(
                Difference(
                    what=what, place=place, recomputed=f"{recomputed}", recorded=f"{recorded}"
                )
            )

    def compare(
        self,
        what: DifferenceKind,
        recomputed: Mapping[str, object],
        recorded: Mapping[str, object],
        nil: object,
    ) -> None:
        for place in sorted(recomputed.keys() | recorded.keys()):
            ours, theirs = recomputed.get(place, nil), recorded.get(place, nil)
            if ours != theirs:
                self.note(what, place, ours, theirs)


@dataclass
class UsageRecount:
    """The usage of the minutes [first, past), added up anew."""

    first: int
    past: int
    usage: dict[UsageKey, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0])
    )
    diverted: int = 0

    def add(
        self,
        node: str,
        cells: Iterable[CellRow],
        owners: Mapping[str, Sequence[OwnershipPeriod]],
        received: datetime,
    ) -> None:
        """An archived batch, judged by the rules as when it came. Owners of valid domains only."""
        now_minute = int(received.timestamp()) // 60
        for domain, minute, *counts in cells:
            if not self.first <= minute < self.past:
                continue
            if domain not in owners or minute_fault(minute, now_minute) is not None:
                self.diverted += 1
                continue
            self.count(domain, minute, node, (counts[0], counts[1], counts[2], counts[3]), owners)

    def count(
        self,
        domain: str,
        minute: int,
        node: str,
        counts: UsageCounts,
        owners: Mapping[str, Sequence[OwnershipPeriod]],
    ) -> None:
        sums = self.usage[
            UsageKey(owner_at(owners.get(domain, ()), minute), domain, node, minute // 60)
        ]
        for index, count in enumerate(counts):
            sums[index] += count

    @property
    def accrued(self) -> dict[tuple[str, int], int]:
        """HTTPS requests by account and hour; what belongs to nobody is in no account."""
        found: dict[tuple[str, int], int] = defaultdict(int)
        for place, counts in self.usage.items():
            if place.account != NOBODY and counts[0]:
                found[place.account, place.hour] += counts[0]
        return found


@dataclass
class BilledAccount:
    """One account as recorded: its charged hours, plans and ledger lines, from where its rating
    begins.

    ``lines``: (hour, requests, amount, price id, plan)."""

    account: str
    currency: str
    hours: list[HourCount] = field(default_factory=list)
    packs: list[BoughtPlan] = field(default_factory=list)
    lines: list[tuple[int, int, Decimal, str | None, str | None]] = field(default_factory=list)


def recharge_account(billed: BilledAccount, tariff_at: Callable[[int], Tariff]) -> list[ChargeLine]:
    """Its lines, as if all that was charged had come at once."""
    hours = [
        replace(count, requests=count.charged, charged=0, postings=0, covered={})
        for count in billed.hours
    ]
    return charge_hours(
        hours, billed.packs, {pack.reference: pack.requests for pack in billed.packs}, {}, tariff_at
    )


def compare_charges(
    billed: BilledAccount, lines: Sequence[ChargeLine], findings: AuditDifferences
) -> None:
    """Requests by hour and plan, money by month and price: the order in which requests came moves
    money between the hours of a month, never between months or prices."""
    ours: dict[str, int] = defaultdict(int)
    theirs: dict[str, int] = defaultdict(int)
    our_money: dict[str, Decimal] = defaultdict(Decimal)
    their_money: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        ours[f"{billed.account} {format_hour(line.hour)} {line.plan or 'pay as you go'}"] += (
            line.requests
        )
        _add_amount(
            our_money,
            _price_group(billed.account, line.hour, line.price_id, line.plan),
            line.amount,
        )
    for (
        hour,
        requests,
        amount,
        price_id,
        plan,
    ) in billed.lines:  # the first lines of all were written without an id
        theirs[f"{billed.account} {format_hour(hour)} {plan or 'pay as you go'}"] += requests
        _add_amount(
            their_money,
            _price_group(billed.account, hour, price_id or f"list-{billed.currency.lower()}", plan),
            amount,
        )
    findings.compare("charged", ours, theirs, 0)
    findings.compare("amount", our_money, their_money, Decimal(0))


def format_hour(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%dT%HZ}"


def _price_group(account: str, hour: int, price_id: str | None, plan: str | None) -> str:
    month = month_of(hour)
    name = f"plan {plan}" if plan else price_id
    return f"{account} {month // 12:04}-{month % 12 + 1:02} {name}"


def _add_amount(sums: dict[str, Decimal], key: str, amount: Decimal) -> None:
    sums[key] = plus(sums[key], amount)
