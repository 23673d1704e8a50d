"""Days, hours and months of a zone: without a hole or an overlap, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.billing.domain.calendar import find_zone, month_bounds, period_bounds
from services.billing.domain.statements import statement_month
from shared.contracts.usage import Granularity

ZONES = (
    "UTC",
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Havana",
)
MOMENTS = st.integers(
    int(datetime(2009, 1, 1, tzinfo=UTC).timestamp()) // 60,
    int(datetime(2036, 1, 1, tzinfo=UTC).timestamp()) // 60,
)
WIDEST = {"5m": 60 * 24, "hour": 60 * 24 * 4, "day": 60 * 24 * 90, "month": 60 * 24 * 800}


def minute(zone: str, *moment: int) -> int:
    return int(datetime(*moment, tzinfo=ZoneInfo(zone)).timestamp()) // 60  # type: ignore[misc, arg-type]


def hours(zone: str, *day: int) -> list[int]:
    """Return the lengths in minutes of the hours of a local day."""
    first = minute(zone, *day)
    bounds = period_bounds(
        first,
        period_bounds(first, first + 1, "day", ZoneInfo(zone), 1)[1],
        "hour",
        ZoneInfo(zone),
        100,
    )
    return [end - start for start, end in pairwise(bounds)]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.sampled_from(get_args(Granularity)), MOMENTS, st.data())
def test_periods_cover_what_was_asked_for_without_a_hole(
    zone: str, granularity: Granularity, first: int, data: st.DataObject
) -> None:
    past = first + data.draw(st.integers(1, WIDEST[granularity]))
    bounds = period_bounds(first, past, granularity, ZoneInfo(zone), 5000)
    assert bounds[0] <= first < bounds[1]
    assert bounds[-2] < past <= bounds[-1]
    assert all(start < end for start, end in pairwise(bounds))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ZONES), st.sampled_from(get_args(Granularity)), MOMENTS, st.data())
def test_periods_taken_a_few_at_a_time_are_those_taken_at_once(
    zone: str, granularity: Granularity, first: int, data: st.DataObject
) -> None:
    past = first + data.draw(st.integers(1, WIDEST[granularity]))
    whole = period_bounds(first, past, granularity, ZoneInfo(zone), 5000)
    begun, found = first, whole[:1]
    while begun < past:
        some = period_bounds(
            begun, past, granularity, ZoneInfo(zone), data.draw(st.integers(1, 50))
        )
        assert some[0] == found[-1]
        found += some[1:]
        begun = some[-1]
    assert found == whole


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ZONES), MOMENTS)
def test_every_day_lies_in_one_month_and_every_hour_in_one_day(zone: str, at: int) -> None:
    place = ZoneInfo(zone)
    months = period_bounds(at, at + 1, "month", place, 1)
    days = period_bounds(months[0], months[1], "day", place, 40)
    assert (days[0], days[-1]) == tuple(months)
    day = next(pair for pair in pairwise(days) if pair[0] <= at < pair[1])
    assert {day[0], day[1]} <= set(period_bounds(day[0], day[1], "hour", place, 60))


@pytest.mark.parametrize(
    ("case", "zone", "day", "lengths"),
    [
        ("an ordinary day", "Europe/Berlin", (2026, 6, 1), [60] * 24),
        ("an hour is left out", "Europe/Berlin", (2026, 3, 29), [60] * 23),
        ("an hour comes twice and is two", "Europe/Berlin", (2026, 10, 25), [60] * 25),
        ("a quarter past midnight in UTC", "Asia/Kathmandu", (2026, 6, 1), [60] * 24),
        ("midnight is left out", "America/Sao_Paulo", (2018, 11, 4), [60] * 23),
        ("half an hour comes twice", "Australia/Lord_Howe", (2026, 4, 5), [60, 90, *[60] * 22]),
        (
            "half an hour is left out",
            "Australia/Lord_Howe",
            (2026, 10, 4),
            [60, 60, 30, *[60] * 21],
        ),
    ],
)
def test_a_day_has_its_hours(
    case: str, zone: str, day: tuple[int, int, int], lengths: list[int]
) -> None:
    assert hours(zone, *day) == lengths, case


def test_a_day_that_a_zone_skipped_at_the_date_line_is_no_period() -> None:
    place = ZoneInfo("Pacific/Apia")
    bounds = period_bounds(
        minute("Pacific/Apia", 2011, 12, 29), minute("Pacific/Apia", 2012, 1, 1), "day", place, 10
    )
    assert [end - start for start, end in pairwise(bounds)] == [1440, 1440]


def test_a_month_is_that_of_the_zone() -> None:
    start, end = month_bounds("2026-03", ZoneInfo("Europe/Berlin"))
    assert (start, end) == (
        datetime(2026, 2, 28, 23, tzinfo=UTC),
        datetime(2026, 3, 31, 22, tzinfo=UTC),
    )
    found = statement_month("2026-03", "hour", ZoneInfo("Europe/Berlin"))
    assert len(found.bounds) == 31 * 24 - 1 + 1
    assert not found.is_settled(end + timedelta(hours=23))
    assert found.is_settled(end + timedelta(hours=24))


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "Europe", "", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(LookupError):
        find_zone(name)
