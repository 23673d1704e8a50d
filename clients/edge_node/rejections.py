"""What was not believed: all of it is counted, little of it is written, or whoever floods a node
fills its disk."""

from __future__ import annotations

import time

import structlog

from clients.edge_node import metrics
from shared.errors import Poison

log = structlog.get_logger()
_LINES = 10
_WINDOW_SECONDS = 5.0


class Drops:
    """``event``: the name of the log line. At most 10 lines of a kind in 5 s, the first of which
    says how many there were too many before."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._said: dict[str, tuple[float, int]] = {}
        self._unsaid: dict[str, int] = {}

    def note(self, what: str, error: Poison) -> None:
        metrics.DROPPED.labels(what, error.reason).inc()
        since, said = self._said.get(what, (0.0, 0))
        if time.monotonic() - since >= _WINDOW_SECONDS:
            since, said = time.monotonic(), 0
        if said < _LINES:
            self._said[what] = since, said + 1
            log.warning(self._event, what=what, error=str(error), unsaid=self._unsaid.pop(what, 0))
        else:
            self._unsaid[what] = self._unsaid.get(what, 0) + 1
