"""Which byte ranges of one log are taken, which wait, and which are refused. Pure.

A range is taken only at the stored end, so what is stored never has a hole and counts nothing twice
(rule E5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar


class Ranged(Protocol):
    """Bytes [start, end) of a log."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


RangedT = TypeVar("RangedT", bound=Ranged)


class Fate(Enum):
    """What becomes of a range, seen from the stored end."""

    ACCEPT = "accept"
    HOLD = "hold"
    REPEAT = "repeat"
    OVERLAP = "overlap"
    PAST_FINAL = "past_final"


@dataclass
class Lineup(Generic[RangedT]):
    """The ranges of one log by their fate; ``stored_to`` is the stored end after ``accepted``, in
    order."""

    stored_to: int
    accepted: list[RangedT] = field(default_factory=list)
    held: list[RangedT] = field(default_factory=list)
    repeated: list[RangedT] = field(default_factory=list)
    refused: list[tuple[RangedT, Fate]] = field(default_factory=list)


def fate(start: int, end: int, stored_to: int, final_length: int | None = None) -> Fate:
    """``final_length``: where the log is known to end; nothing can lie beyond it."""
    if end <= stored_to:
        return Fate.REPEAT
    if final_length is not None and end > final_length:
        return Fate.PAST_FINAL
    if start > stored_to:
        return Fate.HOLD
    return Fate.ACCEPT if start == stored_to else Fate.OVERLAP


def line_up(
    stored_to: int, ranges: Iterable[RangedT], final_length: int | None = None
) -> Lineup[RangedT]:
    """Places ``ranges``, those that wait already among them; of two with the same start the first
    given is taken.

    One pass in order of start is enough: what is taken moves the stored end to at most the next
    start."""
    lineup: Lineup[RangedT] = Lineup(stored_to)
    for item in sorted(ranges, key=lambda one: one.start):
        found = fate(item.start, item.end, lineup.stored_to, final_length)
        if found is Fate.ACCEPT:
            lineup.accepted.append(item)
            lineup.stored_to = item.end
        elif found is Fate.HOLD:
            lineup.held.append(item)
        elif found is Fate.REPEAT:
            lineup.repeated.append(item)
        else:
            lineup.refused.append((item, found))
    return lineup


def missing(
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
