"""For how much of a stretch of time was a verdict possible? Pure: time comes in, in seconds of one
monotonic clock."""

from __future__ import annotations

from collections import deque

_KEPT_SPANS = 1000


class PresenceLog:
    """The spans of time in which something was seen to be there. Time before the first look, as
    after a restart, does not count."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=_KEPT_SPANS)
        self._present = False

    def note(self, now: float, present: bool) -> None:
        """Note what a look at the time ``now`` saw.

        Between two looks that both saw it, it is taken to have been there. The time between a look
        that saw it and one that did not is not counted."""
        if present and self._present:
            start, _ = self._spans.pop()
            self._spans.append((start, now))
        elif present:
            self._spans.append((now, now))
        self._present = present

    def seconds_between(self, start: float, end: float) -> float:
        """Return for how many seconds of a stretch of time it was there."""
        total = 0.0
        for first, last in self._spans:
            total += max(0.0, min(last, end) - max(first, start))
        return total
