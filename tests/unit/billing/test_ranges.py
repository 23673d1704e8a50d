from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.domain.ranges import RangeFate, decide_fate, missing_ranges, place_ranges


@dataclass(frozen=True)
class Span:
    start: int
    end: int


FATES = [
    ("the range at the stored end is accepted", 100, 200, 100, None, RangeFate.ACCEPT),
    ("the first range of a log is accepted", 0, 10, 0, None, RangeFate.ACCEPT),
    ("a later one waits", 150, 200, 100, None, RangeFate.HOLD),
    ("one that is stored already is a repetition", 0, 100, 100, None, RangeFate.REPEAT),
    ("a part of what is stored is a repetition", 20, 30, 100, None, RangeFate.REPEAT),
    ("an empty range at the stored end is a repetition", 100, 100, 100, None, RangeFate.REPEAT),
    ("an empty range further on waits", 150, 150, 100, None, RangeFate.HOLD),
    ("one across the stored end is an overlap", 50, 150, 100, None, RangeFate.OVERLAP),
    ("up to the final length is accepted", 100, 200, 100, 200, RangeFate.ACCEPT),
    ("beyond the final length cannot be", 100, 201, 100, 200, RangeFate.PAST_FINAL),
    ("a repetition stays one at any final length", 0, 100, 100, 50, RangeFate.REPEAT),
]


@pytest.mark.parametrize(
    ("case", "start", "end", "stored_to", "final", "expected"),
    FATES,
    ids=[case for case, *_ in FATES],
)
def test_a_range_is_accepted_held_or_refused_by_the_stored_end_of_its_log(
    case: str, start: int, end: int, stored_to: int, final: int | None, expected: RangeFate
) -> None:
    assert decide_fate(start, end, stored_to, final) is expected, case


def test_held_ranges_are_accepted_with_the_missing_one_and_an_overlap_is_refused() -> None:
    first, second, third, across = Span(0, 10), Span(10, 20), Span(20, 30), Span(15, 25)
    lineup = place_ranges(0, [third, across, second, first, Span(40, 50)])
    assert lineup.accepted == [first, second, third]
    assert lineup.refused == [(across, RangeFate.OVERLAP)]
    assert lineup.held == [Span(40, 50)]
    assert lineup.stored_to == 30


def test_of_two_ranges_from_the_same_start_the_first_given_is_accepted() -> None:
    lineup = place_ranges(0, [Span(0, 10), Span(0, 15)])
    assert (lineup.accepted, lineup.refused) == ([Span(0, 10)], [(Span(0, 15), RangeFate.OVERLAP)])


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=15).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes),
            st.lists(st.integers(0, len(sizes) - 1), max_size=40),
            st.randoms(),
            st.integers(1, 5),
        )
    )
)
def test_each_byte_is_accepted_once_in_any_order_and_however_often_it_arrives(
    made: tuple[list[int], list[int], object, int],
) -> None:
    sizes, again, random, at_once = made
    spans, at = [], 0
    for size in sizes:
        spans.append(Span(at, at + size))
        at += size
    arriving = [*spans, *(spans[index] for index in again)]
    random.shuffle(arriving)  # type: ignore[attr-defined]
    stored_to, held, taken = 0, [], []
    for begin in range(0, len(arriving), at_once):
        lineup = place_ranges(stored_to, [*held, *arriving[begin : begin + at_once]])
        assert lineup.stored_to >= stored_to and lineup.refused == []
        stored_to, held = lineup.stored_to, lineup.held
        taken += lineup.accepted
    assert taken == spans and held == [] and stored_to == at


@pytest.mark.parametrize(
    ("case", "stored", "known", "waiting", "expected"),
    [
        ("all is in", 100, 100, [], []),
        ("read and not come", 100, 150, [], [(100, 150)]),
        ("one withheld", 100, 300, [(200, 300)], [(100, 200)]),
        ("two withheld", 0, 500, [(300, 400), (100, 200)], [(0, 100), (200, 300), (400, 500)]),
        ("what waits overlaps", 0, 300, [(100, 250), (200, 300)], [(0, 100)]),
    ],
)
def test_missing_ranges_are_all_that_have_not_arrived(
    case: str,
    stored: int,
    known: int,
    waiting: list[tuple[int, int]],
    expected: list[tuple[int, int]],
) -> None:
    assert missing_ranges(stored, known, waiting) == expected, case
