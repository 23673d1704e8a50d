"""Plans, tiers and corrections: the whole is the sum of its parts, whatever arrives first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.charging import (
    BoughtPlan,
    ChargeLine,
    HourCount,
    TierKey,
    allocate_to_plans,
    charge_hours,
)
from services.billing.domain.rating import Tariff, list_tariff
from services.billing.domain.units import month_of
from shared.money import total

D = Decimal
TIERED = Tariff("tiered", ((0, D("1")), (100, D("0.5")), (1000, D("0.1"))))
HOUR = 500_000
PLANS = [
    BoughtPlan("later", 300, HOUR, HOUR + 30, D(3)),
    BoughtPlan("sooner", 100, HOUR, HOUR + 10, D(2)),
    BoughtPlan("nested", 50, HOUR + 4, HOUR + 8, D(1)),
    BoughtPlan("future", 500, HOUR + 25, HOUR + 60, D(7)),
]


class ChargedAccount:
    """Keeps posted lines, as the store does, and charges usage that arrives step by step."""

    def __init__(self, tariff: Tariff, plans: Sequence[BoughtPlan] = ()) -> None:
        self.tariff, self.plans = tariff, plans
        self.hours: dict[int, HourCount] = {}
        self.used: dict[TierKey, int] = {}
        self.lines: list[ChargeLine] = []

    def arrive(self, usage: Sequence[tuple[int, int]]) -> None:
        changed = set()
        for hour, requests in usage:
            count = self.hours.get(hour, HourCount(hour, 0))
            self.hours[hour] = replace(count, requests=count.requests + requests)
            changed.add(hour)
        first = min(changed)
        hours = [
            self.hours[h] for h in sorted(self.hours) if h in changed or (self.plans and h >= first)
        ]
        left = {
            pack.reference: pack.requests
            - sum(
                count.covered.get(pack.reference, 0)
                for count in self.hours.values()
                if count.hour < first
            )
            for pack in self.plans
        }
        made = charge_hours(hours, self.plans, left, self.used, lambda _hour: self.tariff)
        self.lines += made
        for line in made:
            count = self.hours[line.hour]
            covered = dict(count.covered)
            if line.plan:
                covered[line.plan] = covered.get(line.plan, 0) + line.requests
            self.hours[line.hour] = replace(
                count, charged=count.charged + line.requests, postings=line.posting, covered=covered
            )

    def sums(self) -> dict[tuple[int, str | None], int]:
        """Return requests by hour and plan."""
        found: dict[tuple[int, str | None], int] = defaultdict(int)
        for line in self.lines:
            found[line.hour, line.plan] += line.requests
        return {key: requests for key, requests in found.items() if requests}

    @property
    def cost(self) -> Decimal:
        return total(line.amount for line in self.lines)


USAGE = st.lists(
    st.tuples(st.integers(HOUR, HOUR + 70), st.integers(0, 400)), min_size=1, max_size=25
)


@given(
    USAGE,
    st.randoms(use_true_random=False),
    st.sampled_from([TIERED, list_tariff("CNY")]),
    st.booleans(),
)
def test_the_order_and_the_steps_of_arrival_change_neither_money_nor_plans(
    usage: list[tuple[int, int]], chance: object, tariff: Tariff, with_plans: bool
) -> None:
    plans = PLANS if with_plans else []
    at_once, shuffled = ChargedAccount(tariff, plans), ChargedAccount(tariff, plans)
    at_once.arrive(usage)
    mixed = list(usage)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    while mixed:
        size = chance.randint(1, 3)  # type: ignore[attr-defined]
        shuffled.arrive(mixed[:size])
        mixed = mixed[size:]
    assert shuffled.cost == at_once.cost
    assert shuffled.sums() == at_once.sums()
    assert shuffled.used == at_once.used


@given(USAGE, st.booleans())
def test_every_request_is_on_a_line_nothing_is_negative_and_no_plan_gives_more_than_it_has(
    usage: list[tuple[int, int]], with_plans: bool
) -> None:
    books = ChargedAccount(TIERED, PLANS if with_plans else [])
    for one in usage:
        books.arrive([one])
    sums = books.sums()
    assert sum(sums.values()) == sum(requests for _, requests in usage)
    assert all(requests > 0 for requests in sums.values())
    assert books.cost >= 0
    for pack in PLANS if with_plans else []:
        taken = {hour: n for (hour, plan), n in sums.items() if plan == pack.reference}
        assert sum(taken.values()) <= pack.requests
        assert all(pack.start <= hour < pack.end for hour in taken)
    months: dict[int, int] = defaultdict(int)
    for (hour, plan), requests in sums.items():
        if plan is None:
            months[month_of(hour)] += requests
    assert books.cost == total(TIERED.amount(0, requests) for requests in months.values())


@given(st.integers(0, 3000), st.lists(st.integers(0, 700), max_size=12))
def test_tiers_cost_the_same_in_one_step_and_in_many_and_taking_back_gives_back(
    start: int, steps: list[int]
) -> None:
    used, cost = start, D(0)
    for step in steps:
        cost = total([cost, TIERED.amount(used, step)])
        used += step
    assert cost == TIERED.amount(start, sum(steps))
    assert TIERED.amount(used, -sum(steps)) == -cost


def test_plans_are_used_soonest_expiring_first_and_the_overflow_is_pay_as_you_go() -> None:
    books = ChargedAccount(list_tariff("CNY"), PLANS)
    books.arrive([(HOUR + 5, 500)])
    assert [(line.plan, line.requests, line.amount) for line in books.lines] == [
        ("later", 300, 0),
        ("nested", 50, 0),
        ("sooner", 100, 0),
        (None, 50, D("0.00025")),
    ]
    assert [line.plan_cost for line in books.lines] == [D(3), D(1), D(2), None]


def test_late_usage_takes_from_the_plan_what_a_later_hour_had_taken() -> None:
    books = ChargedAccount(list_tariff("CNY"), [BoughtPlan("p", 100, HOUR, HOUR + 10)])
    books.arrive([(HOUR + 5, 100)])
    books.arrive([(HOUR + 1, 30)])
    assert books.sums() == {(HOUR + 1, "p"): 30, (HOUR + 5, "p"): 70, (HOUR + 5, None): 30}
    corrected = [line for line in books.lines if line.hour == HOUR + 5 and line.posting == 2]
    assert [(line.plan, line.requests) for line in corrected] == [("p", -30), (None, 30)]


def test_the_rest_of_a_plan_at_its_end_is_forfeited() -> None:
    taken = allocate_to_plans([HourCount(HOUR + 10, 5)], [PLANS[1]], {"sooner": 100})
    assert taken == {HOUR + 10: {}}
