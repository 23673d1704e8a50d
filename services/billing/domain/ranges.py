"""Accepting, holding or refusing the byte ranges of a log (rule E5).

A node reads its log from the first byte to the last and sends the counts of each range that it
read. The invariant: ``stored_to`` is the end of an unbroken run of ranges from byte 0 on, each of
which was counted exactly once. It holds because a range is accepted only when it starts at
``stored_to``, and accepting it moves ``stored_to`` to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar


class ByteRange(Protocol):
    """The bytes [start, end) of a log."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


ByteRangeT = TypeVar("ByteRangeT", bound=ByteRange)


class RangeFate(Enum):
    """The decision about one range. The values are labels of a metric and reasons of refusals."""

    ACCEPT = "accept"
    HOLD = "hold"
    REPEAT = "repeat"
    OVERLAP = "overlap"
    PAST_FINAL = "past_final"


@dataclass
class RangePlacement(Generic[ByteRangeT]):
    """The ranges of one log by their fate.

    ``accepted`` is in order of the log; ``stored_to`` is the stored end after the last of them."""

    stored_to: int
    accepted: list[ByteRangeT] = field(default_factory=list)
    held: list[ByteRangeT] = field(default_factory=list)
    repeated: list[ByteRangeT] = field(default_factory=list)
    refused: list[tuple[ByteRangeT, RangeFate]] = field(default_factory=list)


def decide_fate(start: int, end: int, stored_to: int, final_length: int | None = None) -> RangeFate:
    """Decide about the bytes [start, end) of a log that is stored up to ``stored_to``.

    ``final_length``: the length of a log that is closed; nothing can lie beyond it."""
    if end <= stored_to:
        return RangeFate.REPEAT
    if final_length is not None and end > final_length:
        return RangeFate.PAST_FINAL
    if start > stored_to:
        return RangeFate.HOLD
    if start == stored_to:
        return RangeFate.ACCEPT
    return RangeFate.OVERLAP


def place_ranges(
    stored_to: int, ranges: Iterable[ByteRangeT], final_length: int | None = None
) -> RangePlacement[ByteRangeT]:
    """Decide about ranges that arrived, and about those that were held before, together.

    Of two ranges with the same start the first one in ``ranges`` is accepted."""
    # One pass in order of start is enough. After a range [a, b) was accepted, stored_to is b. Every
    # range further on in the order starts at a or later:
    #   - it starts at b: it is accepted next, so held ranges follow as soon as a gap is filled;
    #   - it starts after b: it waits, and nothing earlier can come in this pass to close its gap,
    #     because all ranges with a smaller start were looked at already;
    #   - it ends at b or before: it is a repetition, whether it was stored now or long ago;
    #   - it starts before b and ends after b: a part of it was counted, so counting it would count
    #     those bytes twice, and its counts cannot be cut. It is refused, and the node sends the
    #     rest of its log again from stored_to on.
    # sorted() is stable: ranges with the same start keep the order of the caller.
    placement: RangePlacement[ByteRangeT] = RangePlacement(stored_to)
    for item in sorted(ranges, key=lambda one: one.start):
        fate = decide_fate(item.start, item.end, placement.stored_to, final_length)
        if fate is RangeFate.ACCEPT:
            placement.accepted.append(item)
            placement.stored_to = item.end
        elif fate is RangeFate.HOLD:
            placement.held.append(item)
        elif fate is RangeFate.REPEAT:
            placement.repeated.append(item)
        else:
            placement.refused.append((item, fate))
    return placement


def missing_ranges(
    stored_to: int, known_to: int, arrived: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the ranges of a log that have not even arrived, in order.

    They lie between the stored end and ``known_to``, the highest byte that is known to exist.
    ``arrived``: (start, end) of ranges that wait."""
    missing = []
    at = stored_to
    for start, end in sorted(arrived):
        if start > at:
            missing.append((at, start))
        at = max(at, end)
    if known_to > at:
        missing.append((at, known_to))
    return missing
