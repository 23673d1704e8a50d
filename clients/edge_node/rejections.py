"""Count and log the messages that were rejected.

Every rejection is counted and few are logged: otherwise a sender that floods a node would fill its
disk.
"""

from __future__ import annotations

import time

import structlog

from clients.edge_node import metrics
from shared.errors import Poison

log = structlog.get_logger()
_MAX_LINES = 10
_WINDOW_SECONDS = 5.0


class RejectionLog:
    """The rejections of one reader. ``event``: the name of its log lines.

    At most 10 lines of a kind in 5 s are logged. The first line of the next window says how many
    were left out (``omitted``)."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._windows: dict[str, tuple[float, int]] = {}
        self._omitted: dict[str, int] = {}

    def record(self, what: str, error: Poison) -> None:
        """Count a rejection of the kind ``what``, and log it unless there were too many."""
        metrics.REJECTED.labels(what, error.reason).inc()
        started, lines = self._windows.get(what, (0.0, 0))
        if time.monotonic() - started >= _WINDOW_SECONDS:
            started = time.monotonic()
            lines = 0
        if lines < _MAX_LINES:
            self._windows[what] = (started, lines + 1)
            omitted = self._omitted.pop(what, 0)
            log.warning(self._event, what=what, error=str(error), omitted=omitted)
        else:
            self._omitted[what] = self._omitted.get(what, 0) + 1
