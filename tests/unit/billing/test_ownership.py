from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.ownership import (
    BEGINNING,
    NOBODY,
    OPEN_END,
    OwnershipEvent,
    OwnershipPeriod,
    owner_at,
    ownership_periods,
)


def at(minute: int, second: float = 0) -> datetime:
    return datetime.fromtimestamp(minute * 60 + second, UTC)


def registered(revision: int, account: str, when: datetime) -> OwnershipEvent:
    return OwnershipEvent(revision, "registered", account, when)


def removed(revision: int, account: str, when: datetime) -> OwnershipEvent:
    return OwnershipEvent(revision, "removed", account, when)


OWNED = [
    ("without events there is no owner", [], ()),
    (
        "the first owner owns what was before, too",
        [registered(1, "a", at(10, 5))],
        (OwnershipPeriod("a", BEGINNING, OPEN_END),),
    ),
    (
        "a removal counts from the next full minute",
        [registered(1, "a", at(10)), removed(2, "a", at(20, 1))],
        (OwnershipPeriod("a", BEGINNING, 21),),
    ),
    (
        "a removal on the minute counts from that minute",
        [registered(1, "a", at(10)), removed(2, "a", at(20))],
        (OwnershipPeriod("a", BEGINNING, 20),),
    ),
    (
        "the next owner in the same minute follows without a gap",
        [registered(1, "a", at(10)), removed(2, "a", at(20, 10)), registered(3, "b", at(20, 50))],
        (OwnershipPeriod("a", BEGINNING, 21), OwnershipPeriod("b", 21, OPEN_END)),
    ),
    (
        "after a gap the next owner owns from its first minute",
        [registered(1, "a", at(10)), removed(2, "a", at(20)), registered(3, "b", at(30, 50))],
        (OwnershipPeriod("a", BEGINNING, 20), OwnershipPeriod("b", 30, OPEN_END)),
    ),
    (
        "a hand-over without a removal counts from the next full minute",
        [registered(1, "a", at(10)), registered(2, "b", at(20, 1))],
        (OwnershipPeriod("a", BEGINNING, 21), OwnershipPeriod("b", 21, OPEN_END)),
    ),
    (
        "the same registration again changes nothing",
        [registered(1, "a", at(10)), registered(2, "a", at(20))],
        (OwnershipPeriod("a", BEGINNING, OPEN_END),),
    ),
    (
        "a removal by another account is none",
        [registered(1, "a", at(10)), removed(2, "b", at(20))],
        (OwnershipPeriod("a", BEGINNING, OPEN_END),),
    ),
    ("a removal alone makes no period", [removed(2, "a", at(20))], ()),
    (
        "an owner of less than a minute owned nothing",
        [
            registered(1, "a", at(10)),
            removed(2, "a", at(20, 1)),
            registered(3, "b", at(20, 2)),
            removed(4, "b", at(20, 3)),
            registered(5, "c", at(20, 4)),
        ],
        (OwnershipPeriod("a", BEGINNING, 21), OwnershipPeriod("c", 21, OPEN_END)),
    ),
]


@pytest.mark.parametrize(("case", "events", "expected"), OWNED, ids=[case for case, *_ in OWNED])
def test_an_owner_has_the_minutes_from_registration_to_removal(
    case: str, events: list[OwnershipEvent], expected: tuple[OwnershipPeriod, ...]
) -> None:
    assert ownership_periods(events) == expected, case


def test_a_minute_belongs_to_its_owner() -> None:
    owned = ownership_periods(
        [registered(1, "a", at(10)), removed(2, "a", at(20)), registered(3, "b", at(30))]
    )
    assert [owner_at(owned, minute) for minute in (5, 19, 20, 29, 30, 99)] == [
        "a",
        "a",
        NOBODY,
        NOBODY,
        "b",
        "b",
    ]
    assert owner_at((), 5) == NOBODY


event_lists = st.lists(
    st.tuples(
        st.sampled_from(["registered", "removed"]), st.sampled_from("abc"), st.integers(0, 600)
    ),
    max_size=12,
).map(
    lambda rows: [
        OwnershipEvent(i, kind, account, at(0, second))
        for i, (kind, account, second) in enumerate(rows)
    ]
)


@given(event_lists, st.randoms())
def test_the_order_of_arrival_does_not_matter_and_no_minute_has_two_owners(
    events: list[OwnershipEvent], random: object
) -> None:
    found = ownership_periods(events)
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ownership_periods(shuffled) == found
    assert all(period.start < period.end for period in found)
    assert all(earlier.end <= later.start for earlier, later in pairwise(found))
