"""Charging an hour: plans that end soonest first, the rest at the hour's tariff (E2, E4, E8).

``charge_hours`` is one function of all that was counted. Its result is the difference to what was
charged before: the first lines of an hour are its charge, later ones are corrections. So an account
pays the same in whatever order its usage arrives. The time when an hour is charged:
``usecases/hourly_jobs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from services.billing.domain.rating import Tariff
from services.billing.domain.units import CalendarMonth, UnixHour, month_of
from shared.money import share

TierKey = tuple[CalendarMonth, str]
"""Month, price id."""


@dataclass(frozen=True)
class BoughtPlan:
    """A plan of an account. It covers the hours [start, end); ``price`` is its whole cost."""

    reference: str
    requests: int
    start: UnixHour
    end: UnixHour
    price: Decimal = Decimal(0)


@dataclass(frozen=True)
class HourCount:
    """The requests of one hour.

    ``requests``: counted. ``charged``: posted to the ledger, in ``postings`` steps. ``covered``:
    the part of ``charged`` that plans took, by reference."""

    hour: UnixHour
    requests: int
    charged: int = 0
    postings: int = 0
    covered: Mapping[str, int] = field(default_factory=dict)


class ChargeLine(NamedTuple):
    """One line to post. ``amount``: the cost, negative in a correction downwards.

    ``posting`` counts the steps of an hour, ``line`` the lines of a step. ``plan`` and
    ``plan_cost``: set where a plan took the requests; then price and amount are 0."""

    hour: UnixHour
    posting: int
    line: int
    requests: int
    price: Decimal
    amount: Decimal
    price_id: str | None
    plan: str | None
    plan_cost: Decimal | None


def allocate_to_plans(
    hours: Sequence[HourCount], plans: Sequence[BoughtPlan], left: Mapping[str, int]
) -> dict[UnixHour, dict[str, int]]:
    """Return the requests that each hour takes from each plan, by reference.

    ``hours`` in order of time; ``left``: requests left in each plan before the first of them."""
    remaining = dict(left)
    ending_first = sorted(plans, key=lambda plan: (plan.end, plan.start, plan.reference))
    taken: dict[UnixHour, dict[str, int]] = {}
    for count in hours:
        open_requests = count.requests
        taken_by_hour: dict[str, int] = {}
        for plan in ending_first:
            if open_requests <= 0:
                break
            if not plan.start <= count.hour < plan.end:
                continue
            requests = min(open_requests, remaining[plan.reference])
            if requests > 0:
                taken_by_hour[plan.reference] = requests
                remaining[plan.reference] -= requests
                open_requests -= requests
        taken[count.hour] = taken_by_hour
    return taken


def charge_hours(
    hours: Sequence[HourCount],
    plans: Sequence[BoughtPlan],
    left: Mapping[str, int],
    used: MutableMapping[TierKey, int],
    tariff_at: Callable[[UnixHour], Tariff],
) -> list[ChargeLine]:
    """Return the lines that make the posted charges equal to what is due.

    ``hours`` in order of time: those whose count changed, and, where the account has plans, every
    later hour too. ``left``: requests left in each plan before the first hour. ``used``: requests
    charged so far by month and price; this function moves them on."""
    # Invariant: after the lines are posted, the charges of every hour equal those of one single
    # charge over all counts so far. That is why an hour is recomputed and never only added to:
    #   - Plans are allocated in order of time, not of arrival. Late requests of an earlier hour may
    #     take what a later hour took from the plan; then the later hour gives it back (a line with
    #     negative requests) and pays by its tariff. So with plans all later hours are input too.
    #   - Tiers count a month's requests and not their order (domain/rating.py). So the part that is
    #     not covered by plans can be charged as a difference, on from ``used`` of its month: moved
    #     forward for more requests, backward (from the highest tier down) for fewer.
    #   - ``charged - sum(covered)`` is what was charged by tariff before. Together with the plan
    #     lines the requests of all lines of an hour add up to ``requests``, so ``requests ==
    #     charged`` afterwards and a second call makes no line.
    allocated = allocate_to_plans(hours, plans, left)
    by_reference = {plan.reference: plan for plan in plans}
    lines: list[ChargeLine] = []
    for count in hours:
        due = allocated[count.hour]
        made = _plan_lines(count, due, by_reference)
        tariff = tariff_at(count.hour)
        charged_by_tariff = count.charged - sum(count.covered.values())
        owed = count.requests - sum(due.values()) - charged_by_tariff
        key = (month_of(count.hour), tariff.id)
        used_before = used.get(key, 0)
        made += _tariff_lines(count, owed, used_before, tariff)
        used[key] = used_before + owed
        for number, line in enumerate(made):
            lines.append(line._replace(line=number))
    return lines


def _plan_lines(
    count: HourCount, due: Mapping[str, int], plans: Mapping[str, BoughtPlan]
) -> list[ChargeLine]:
    """Make a line for each plan that the hour takes more from, or less, than before."""
    lines = []
    for reference in sorted(due.keys() | count.covered.keys()):
        moved = due.get(reference, 0) - count.covered.get(reference, 0)
        if not moved:
            continue
        plan = plans[reference]
        lines.append(
            ChargeLine(
                hour=count.hour,
                posting=count.postings + 1,
                line=0,
                requests=moved,
                price=Decimal(0),
                amount=Decimal(0),
                price_id=None,
                plan=reference,
                plan_cost=share(plan.price, moved, plan.requests),
            )
        )
    return lines


def _tariff_lines(count: HourCount, owed: int, used: int, tariff: Tariff) -> list[ChargeLine]:
    """Make a line for each tier of the requests that no plan covers."""
    lines = []
    for part in tariff.split_by_tier(used, owed):
        lines.append(
            ChargeLine(
                hour=count.hour,
                posting=count.postings + 1,
                line=0,
                requests=part.requests,
                price=part.price,
                amount=part.amount,
                price_id=tariff.id,
                plan=None,
                plan_cost=None,
            )
        )
    return lines
