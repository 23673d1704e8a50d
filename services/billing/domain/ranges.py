"""Which byte ranges of one log are taken, which wait, and which are refused. Pure.

A range is taken only at the stored end, so what is stored never has a hole and counts nothing twice
(rule E5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar


class ByteRange(Protocol):
    """Bytes [start, end) of a log."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


ByteRangeT = TypeVar("ByteRangeT", bound=ByteRange)


class RangeFate(Enum):
    """What becomes of a range, seen from the stored end."""

    ACCEPT = "accept"
    HOLD = "hold"
    REPEAT = "repeat"
    OVERLAP = "overlap"
    PAST_FINAL = "past_final"


@dataclass
class RangePlacement(Generic[ByteRangeT]):
    """The ranges of one log by their fate; ``stored_to`` is the stored end after ``accepted``, in
    order."""

    stored_to: int
    accepted: list[ByteRangeT] = field(default_factory=list)
    held: list[ByteRangeT] = field(default_factory=list)
    repeated: list[ByteRangeT] = field(default_factory=list)
    refused: list[tuple[ByteRangeT, RangeFate]] = field(default_factory=list)


def decide_fate(start: int, end: int, stored_to: int, final_length: int | None = None) -> RangeFate:
    """``final_length``: where the log is known to end; nothing can lie beyond it."""
    if end <= stored_to:
        return RangeFate.REPEAT
    if final_length is not None and end > final_length:
        return RangeFate.PAST_FINAL
    if start > stored_to:
        return RangeFate.HOLD
    return RangeFate.ACCEPT if start == stored_to else RangeFate.OVERLAP


def place_ranges(
    stored_to: int, ranges: Iterable[ByteRangeT], final_length: int | None = None
) -> RangePlacement[ByteRangeT]:
    """Places ``ranges``, those that wait already among them; of two with the same start the first
    given is taken.

    One pass in order of start is enough: what is taken moves the stored end to at most the next
    start."""
    lineup: RangePlacement[ByteRangeT] = RangePlacement(stored_to)
    for item in sorted(ranges, key=lambda one: one.start):
        found = decide_fate(item.start, item.end, lineup.stored_to, final_length)
        if found is RangeFate.ACCEPT:
            lineup.accepted.append(item)
            lineup.stored_to = item.end
        elif found is RangeFate.HOLD:
            lineup.held.append(item)
        elif found is RangeFate.REPEAT:
            lineup.repeated.append(item)
        else:
            lineup.refused.append((item, found))
    return lineup


def missing_ranges(
    stored_to: int, known_to: int, waiting: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The ranges between the stored end and the highest byte known of that have not even come."""
    found, at = [], stored_to
    for start, end in sorted(waiting):
        if start > at:
            found.append((at, start))
        at = max(at, end)
    if known_to > at:
        found.append((at, known_to))
    return found
