"""What the hours of an account cost, as one function of all that was counted: plans
soonest-expiring first, the rest at the tariff of its hour, differences to what was charged before
as corrections (rules E2, E4, E8). Pure.

Hours are rated in order of time, not of arrival: late usage may take from a plan what a later hour
had taken, which is then charged as a correction of that hour. So the sum is the same whatever came
first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from services.billing.domain.rating import Tariff, month_of
from shared.money import share

TierKey = tuple[int, str]
"""Month, price id."""


@dataclass(frozen=True)
class BoughtPlan:
    """A plan that was bought; covers the hours [start, end). ``price`` is what it cost."""

    reference: str
    requests: int
    start: int
    end: int
    price: Decimal = Decimal(0)


@dataclass(frozen=True)
class HourCount:
    """``requests`` counted; ``charged`` of them are posted, in ``postings`` steps, ``covered`` of
    those by plans."""

    hour: int
    requests: int
    charged: int = 0
    postings: int = 0
    covered: Mapping[str, int] = field(default_factory=dict)


class ChargeLine(NamedTuple):
    """One line to post. ``amount``: what it costs (a correction downwards is negative)."""

    hour: int
    posting: int
    line: int
    requests: int
    price: Decimal
    amount: Decimal
    price_id: str | None
    plan: str | None
    plan_cost: Decimal | None


def allocate_to_plans(
    hours: Sequence[HourCount], packs: Sequence[BoughtPlan], left: Mapping[str, int]
) -> dict[int, dict[str, int]]:
    """What each hour takes from which plan; ``hours`` in order, ``left`` in each plan before the
    first of them."""
    remaining = dict(left)
    ordered = sorted(packs, key=lambda pack: (pack.end, pack.start, pack.reference))
    taken: dict[int, dict[str, int]] = {}
    for count in hours:
        open_requests, uses = count.requests, {}
        for pack in ordered:
            if open_requests <= 0:
                break
            use = (
                min(open_requests, remaining[pack.reference])
                if pack.start <= count.hour < pack.end
                else 0
            )
            if use > 0:
                uses[pack.reference] = use
                remaining[pack.reference] -= use
                open_requests -= use
        taken[count.hour] = uses
    return taken


def charge_hours(
    hours: Sequence[HourCount],
    packs: Sequence[BoughtPlan],
    left: Mapping[str, int],
    used: MutableMapping[TierKey, int],
    tariff_at: Callable[[int], Tariff],
) -> list[ChargeLine]:
    """The lines that make what was posted equal to what is due. ``hours`` in order: those that
    changed, and where there are plans every later one too. ``used``: requests charged so far by
    month and price, moved on here."""
    covered = allocate_to_plans(hours, packs, left)
    by_reference = {pack.reference: pack for pack in packs}
    lines: list[ChargeLine] = []
    for count in hours:
        due, tariff, posting = covered[count.hour], tariff_at(count.hour), count.postings + 1
        made: list[ChargeLine] = []
        for reference in sorted(due.keys() | count.covered.keys()):
            moved = due.get(reference, 0) - count.covered.get(reference, 0)
            if moved:
                pack = by_reference[reference]
                made.append(
                    ChargeLine(
                        count.hour,
                        posting,
                        0,
                        moved,
                        Decimal(0),
                        Decimal(0),
                        None,
                        reference,
                        share(pack.price, moved, pack.requests),
                    )
                )
        owed = count.requests - sum(due.values()) - (count.charged - sum(count.covered.values()))
        key = month_of(count.hour), tariff.id
        for part in tariff.parts(used.get(key, 0), owed):
            made.append(
                ChargeLine(
                    count.hour,
                    posting,
                    0,
                    part.requests,
                    part.price,
                    part.amount,
                    tariff.id,
                    None,
                    None,
                )
            )
        used[key] = used.get(key, 0) + owed
        lines += [line._replace(line=number) for number, line in enumerate(made)]
    return lines
