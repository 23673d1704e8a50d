"""Many rows as few parameters: a column is one text that PostgreSQL splits.

asyncpg encodes an array element by element and asks each whether it is a list itself: 4
microseconds a row of eight columns. Joining a column costs a tenth of that, splitting it in
PostgreSQL about the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BREAK: Final = "\n"
BREAK_SQL: Final = "E'\\n'"


def join_texts(values: Iterable[str]) -> str:
    """For ``split_texts``. No value may hold a line break: names that were checked when they came
    in."""
    return BREAK.join(values)


def join_numbers(values: Iterable[int]) -> str:
    """For ``split_bigints`` and ``split_ints``."""
    return BREAK.join(map(str, values))


def split_texts(place: int) -> str:
    """SQL for the array in parameter ``place``. One empty value alone would be an empty array, so a
    break goes before the first and the nothing before that is cut off."""
    return f"(string_to_array({BREAK_SQL} || ${place}::text, {BREAK_SQL}))[2:]"


def split_bigints(place: int) -> str:
    return f"{split_texts(place)}::bigint[]"


def split_ints(place: int) -> str:
    return f"{split_texts(place)}::int[]"
