from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.ownership import BEGINNING, OPEN_END, OwnershipPeriod
from services.billing.domain.usage_aggregator import (
    FUTURE_MINUTES,
    PAST_MINUTES,
    UsageAggregator,
    minute_fault,
    valid_domain,
)
from services.billing.domain.wire_format import WireCell

NOW = 29_000_000
OWNERS = {
    "a.example.test": (
        OwnershipPeriod("one", BEGINNING, NOW - 10),
        OwnershipPeriod("two", NOW - 10, OPEN_END),
    ),
    "*.img.example.test": (OwnershipPeriod("one", BEGINNING, OPEN_END),),
    "nobody.example.test": (),
}


@pytest.mark.parametrize(
    ("minute", "expected"),
    [
        (NOW, None),
        (NOW + FUTURE_MINUTES, None),
        (NOW + FUTURE_MINUTES + 1, "minute_in_future"),
        (NOW - PAST_MINUTES, None),
        (NOW - PAST_MINUTES - 1, "minute_too_old"),
        (0, "minute_too_old"),
        (-1, "minute_too_old"),
    ],
)
def test_a_minute_too_late_or_too_early_is_refused(minute: int, expected: str | None) -> None:
    assert minute_fault(minute, NOW) == expected


@pytest.mark.parametrize(
    "domain",
    ["www.example.test", "*.img.example.test", "localhost", "a_b.example", "xn--bcher-kva.example"],
)
def test_registered_names_are_valid(domain: str) -> None:
    assert valid_domain(domain)


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "UP.example",
        "a..b",
        ".a",
        "a.",
        "*",
        "a.*.b",
        "*.*.a",
        "a b",
        "a\x00",
        "a\n",
        "x" * 64,
        "a." * 127 + "a",
        "é.example",
    ],
)
def test_names_that_cannot_be_registered_are_invalid(domain: str) -> None:
    assert not valid_domain(domain)


def test_a_cell_belongs_to_the_owner_of_its_minute_and_bad_ones_come_back_with_their_reason() -> (
    None
):
    tally = UsageAggregator()
    bad = WireCell("unlisted name", NOW, 5), WireCell("a.example.test", NOW + 60, 6)
    diverted = tally.add_cells(
        "n",
        [
            WireCell("a.example.test", NOW - 11, 1),
            WireCell("a.example.test", NOW - 10, 2),
            WireCell("nobody.example.test", NOW, 4),
            *bad,
        ],
        OWNERS,
        NOW,
    )
    assert diverted == [(bad[0], "domain_invalid"), (bad[1], "minute_in_future")]
    assert [row[3] for row in tally.minute_rows()] == ["one", "two", ""]
    assert tally.accrued_requests() == {("one", (NOW - 11) // 60): 1, ("two", (NOW - 10) // 60): 2}


counts = st.integers(0, 2**40)
cells = st.lists(
    st.builds(
        WireCell,
        st.sampled_from([*OWNERS, "bad name"]),
        st.integers(NOW - 130, NOW + 8),
        counts,
        counts,
        counts,
        counts,
    ),
    max_size=40,
)


@given(cells, st.randoms(), st.integers(0, 40))
def test_the_sum_of_the_parts_is_the_whole_in_any_order_and_nothing_is_negative(
    made: list[WireCell], random: object, cut: int
) -> None:
    whole, parts = UsageAggregator(), UsageAggregator()
    diverted = whole.add_cells("n", made, OWNERS, NOW)
    shuffled = list(made)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    diverted_too = [
        *parts.add_cells("n", shuffled[:cut], OWNERS, NOW),
        *parts.add_cells("n", shuffled[cut:], OWNERS, NOW),
    ]
    assert whole.minute_rows() == parts.minute_rows()
    assert whole.accrued_requests() == parts.accrued_requests()
    assert len(diverted) == len(diverted_too)
    for column, field in enumerate(
        ("https_requests", "https_bytes", "http_requests", "http_bytes"), start=4
    ):
        values = [row[column] for row in whole.minute_rows()]
        assert all(value >= 0 for value in values)
        lost = sum(getattr(cell, field) for cell, _ in diverted)
        assert sum(values) + lost == sum(getattr(cell, field) for cell in made)
    owned = sum(row[4] for row in whole.minute_rows() if row[3])
    assert sum(whole.accrued_requests().values()) == owned
