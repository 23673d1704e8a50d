from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.rating import LIST_PRICES, request_cost
from shared.money import minus, plain

D = Decimal


@pytest.mark.parametrize(
    ("requests", "currency", "expected"),
    [
        (10_000, "CNY", "0.05"),
        (10_000, "USD", "0.008"),
        (1, "CNY", "0.000005"),
        (1, "USD", "0.0000008"),
        (5_000, "CNY", "0.025"),
        (0, "CNY", "0"),
        (-7, "CNY", "-0.000035"),
        (2**62, "CNY", "23058430092136.93952"),
    ],
)
def test_the_price_is_linear_and_exact(requests: int, currency: str, expected: str) -> None:
    assert request_cost(requests, LIST_PRICES[currency]) == D(expected)


@given(st.lists(st.integers(0, 2**53), max_size=20), st.sampled_from(["CNY", "USD"]))
def test_the_sum_of_the_parts_costs_what_the_whole_costs(parts: list[int], currency: str) -> None:
    total = D(0)
    for part in parts:
        assert request_cost(part, LIST_PRICES[currency]) >= 0
        total = minus(total, -request_cost(part, LIST_PRICES[currency]))
    assert total == request_cost(sum(parts), LIST_PRICES[currency])


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**19), max_value=10**19, places=18
    )
)
def test_plain_keeps_the_value_and_never_reads_as_an_exponent(amount: Decimal) -> None:
    assert plain(amount) == amount
    assert "E" not in format(plain(amount), "f")
