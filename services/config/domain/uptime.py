"""For how much of a stretch of time was a verdict possible? Pure: time comes in, in seconds of one
monotonic clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# A submission ends after this many deadlines (10 minutes) of broker and database at the latest,
# whether or not a validator was seen: it holds back the later commands of its domain.
LONGEST_WAIT_FACTOR = 60
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


@dataclass(frozen=True)
class QuestionQueue:
    """What the broker reports of the queue of questions to the validators.

    ``waiting_pulls``: requests of validators for more questions. ``delivered``: number of the last
    delivery. ``unacknowledged``: questions delivered and not answered."""

    waiting_pulls: int
    delivered: int
    unacknowledged: int


def validator_is_there(before: QuestionQueue | None, now: QuestionQueue) -> bool:
    """Return whether a validator was at work between two looks at its queue."""
    # A validator that can take a question has a pull request waiting at the broker. The broker
    # drops the requests of a connection that ends: of a killed validator at once, of one that is
    # stopped or cut off after at most 5 s, when they expire (shared/messaging/pull.py). A validator
    # that is full does not ask for more, and with a backlog each request is filled at once, so no
    # request waits then. But it takes and answers questions, and both move these counts.
    # Unanswered questions alone prove nothing: those of a killed validator stay unanswered until
    # another one takes them.
    if now.waiting_pulls > 0:
        return True
    if before is None:
        return False
    return (now.delivered, now.unacknowledged) != (before.delivered, before.unacknowledged)


class JudgingTime:
    """The time in which verdicts were possible. ``seconds``: the deadline of a judgement."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._connected = PresenceLog()
        self._validator = PresenceLog()
        self._queue: QuestionQueue | None = None

    def note(self, now: float, connected: bool, queue: QuestionQueue | None) -> None:
        """Note a look at the time ``now``.

        ``connected``: broker and database are there; ``queue``: the validators' queue, None while
        the broker does not report it."""
        there = connected and queue is not None and validator_is_there(self._queue, queue)
        self._queue = queue
        self._connected.note(now, connected)
        self._validator.note(now, there)

    def is_over(self, asked_at: float, now: float) -> bool:
        """Return whether the deadline of a question is over that was stored at ``asked_at``."""
        if self._validator.seconds_between(asked_at, now) >= self._seconds:
            return True
        longest_wait = self._seconds * LONGEST_WAIT_FACTOR
        return self._connected.seconds_between(asked_at, now) >= longest_wait
