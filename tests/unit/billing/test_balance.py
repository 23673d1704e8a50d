from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.balance import (
    AccountState,
    PricingContext,
    currency_fault,
    decide_flags,
    with_current_tariff,
)
from services.billing.domain.price_book import PriceLookup
from shared.contracts.findings import Code
from shared.contracts.prices import Price, PriceBook, Tier

D = Decimal
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PRICING = PricingContext(PriceLookup(), NOW)
USED = AccountState("a", entries=1)


CROSSINGS = [
    ("no rule is on", USED._replace(ledger=D("0.01")), []),
    ("an account without ledger and usage is not judged", AccountState("a", threshold=D(5)), []),
    ("below its threshold is low", USED._replace(ledger=D("4.99"), threshold=D(5)), ["low"]),
    ("at its threshold is not", USED._replace(ledger=D(5), threshold=D(5)), []),
    (
        "below three mean hours is low",
        USED._replace(ledger=D("0.149"), recent_amount=D("0.1"), recent_hours=2),
        ["low"],
    ),
    (
        "at three mean hours is not",
        USED._replace(ledger=D("0.15"), recent_amount=D("0.1"), recent_hours=2),
        [],
    ),
    (
        "the higher limit counts",
        USED._replace(ledger=D(2), threshold=D(3), recent_amount=D("0.05"), recent_hours=1),
        ["low"],
    ),
    ("nothing left is depleted", USED._replace(ledger=D(0)), ["depleted"]),
    ("usage without any credit is depleted", AccountState("a", accrued_requests=1), ["depleted"]),
    ("low and depleted at once", USED._replace(ledger=D(-1), threshold=D(1)), ["low", "depleted"]),
    (
        "what is flagged is not flagged again",
        USED._replace(ledger=D(-1), threshold=D(1), low=True, depleted=True),
        [],
    ),
    (
        "under 1.2 times the limit it stays low",
        USED._replace(ledger=D("1.19"), threshold=D(1), low=True),
        [],
    ),
    (
        "at 1.2 times the limit it clears",
        USED._replace(ledger=D("1.2"), threshold=D(1), low=True),
        ["recovered"],
    ),
    ("it clears when the rule goes off", USED._replace(ledger=D("0.1"), low=True), ["recovered"]),
    ("above zero it is settled", USED._replace(ledger=D("0.1"), depleted=True), ["settled"]),
    (
        "accrued usage counts",
        USED._replace(ledger=D("0.05"), accrued_requests=10_000),
        ["depleted"],
    ),
]


@pytest.mark.parametrize(
    ("case", "state", "expected"), CROSSINGS, ids=[case for case, *_ in CROSSINGS]
)
def test_a_balance_is_flagged_once_each_time_it_crosses_a_limit(
    case: str, state: AccountState, expected: list[str]
) -> None:
    decided, crossings = decide_flags(state, PRICING)
    assert [crossing.kind for crossing in crossings] == expected, case
    assert decided.crossing == state.crossing + len(expected)
    assert decide_flags(decided, PRICING)[1] == [], "deciding again changes nothing"


@given(st.lists(st.integers(-30_000, 30_000), max_size=40))
def test_flags_alternate_and_their_numbers_have_no_gap(moves: list[int]) -> None:
    state, said = USED._replace(ledger=D(1), threshold=D("0.5")), []
    for move in moves:
        state, crossings = decide_flags(
            state._replace(ledger=state.ledger + D(move) / 20_000), PRICING
        )
        said += crossings
    assert [crossing.number for crossing in said] == list(range(1, len(said) + 1))
    for pair in (("low", "recovered"), ("depleted", "settled")):
        changes = [crossing.kind for crossing in said if crossing.kind in pair]
        assert changes == [pair[index % 2] for index in range(len(changes))]


def test_hours_left_are_at_the_mean_charge_and_none_without_service() -> None:
    assert USED.hours_left is None
    served = USED._replace(ledger=D(1), recent_amount=D("0.35"), recent_hours=7)
    assert served.hours_left == D(20)
    assert served._replace(ledger=D(-1)).hours_left == 0


@pytest.mark.parametrize(
    ("kept", "given_currency", "expected"),
    [
        (None, "CNY", None),
        (None, "USD", None),
        ("USD", "USD", None),
        ("USD", "CNY", Code.BALANCE_CURRENCY),
        (None, "EUR", Code.BALANCE_CURRENCY),
    ],
)
def test_currencies_never_mix(kept: str | None, given_currency: str, expected: Code | None) -> None:
    assert (
        currency_fault(AccountState("a", currency=kept), given_currency, PriceLookup()) is expected
    )


def test_depleted_for_a_day_is_overdue_once_and_only_a_balance_above_zero_ends_it() -> None:
    broke, _ = decide_flags(USED._replace(ledger=D(-1)), PRICING)
    assert (broke.depleted_since, broke.overdue) == (NOW, False)
    assert decide_flags(broke, replace(PRICING, at=NOW + timedelta(hours=23, minutes=59)))[1] == []
    late = replace(PRICING, at=NOW + timedelta(hours=24))
    overdue, said = decide_flags(broke, late)
    assert ([crossing.kind for crossing in said], overdue.overdue) == (["overdue"], True)
    assert decide_flags(overdue, replace(PRICING, at=NOW + timedelta(days=9)))[1] == [], (
        "time alone changes nothing more"
    )
    still, said = decide_flags(overdue._replace(ledger=D(0)), late)
    assert (said, still.overdue) == ([], True)
    paid, said = decide_flags(overdue._replace(ledger=D(1)), late)
    assert ([crossing.kind for crossing in said], paid.overdue, paid.depleted_since) == (
        ["settled"],
        False,
        None,
    )
    again, said = decide_flags(paid._replace(ledger=D(0)), late)
    assert [crossing.kind for crossing in said] == ["depleted"], "the 24 hours begin anew"
    assert again.depleted_since == late.at


def test_accrued_requests_use_plans_first_and_then_go_on_in_the_months_tier() -> None:
    book = PriceBook(
        prices=[
            Price(
                id="cny",
                currency="CNY",
                tiers=[Tier(price=D(1)), Tier(above=20_000, price=D("0.5"))],
            )
        ]
    )
    pricing = PricingContext(PriceLookup(1, book), NOW)
    state = USED._replace(accrued_requests=35_000, plan_left=10_000)
    assert with_current_tariff(state, pricing).accrued_amount == D("2.25")
    further = with_current_tariff(state, pricing)._replace(tier_used=20_000)
    assert further.accrued_amount == D("1.25")
    assert with_current_tariff(
        further, replace(pricing, at=NOW + timedelta(days=31))
    ).accrued_amount == D("2.25"), "a new month starts at 0"
    assert with_current_tariff(state._replace(accrued_requests=9_999), pricing).accrued_amount == 0
