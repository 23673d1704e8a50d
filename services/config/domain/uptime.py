"""For how much of a stretch of time was a verdict possible? Pure: time comes in, in seconds of one
monotonic clock."""

from __future__ import annotations

from collections import deque

_SPANS = 1000


class Attendance:
    """The spans in which this process had both broker and database. What it did not see does not
    count."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=_SPANS)
        self._present = False

    def note(self, now: float, present: bool) -> None:
        """Called at least once a tick: between two notes of presence there was presence."""
        if present and self._present:
            start, _ = self._spans.pop()
            self._spans.append((start, now))
        elif present:
            self._spans.append((now, now))
        self._present = present

    def seconds(self, start: float, end: float) -> float:
        """How much of ``start`` to ``end`` was attended."""
        return sum(max(0.0, min(last, end) - max(first, start)) for first, last in self._spans)
