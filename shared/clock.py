"""The time, from one place. In the embedded platform ``EDGETLS_TEST_CLOCK`` names a file with an
offset in seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path


class Clock:
    """``offset_file``: read at every call, so that a test can move time while services run; None:
    the plain time."""

    def __init__(self, offset_file: Path | None = None) -> None:
        self._offset_file = offset_file

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset()

    def _offset(self) -> timedelta:
        if self._offset_file is None:
            return timedelta()
        try:
            return timedelta(seconds=float(self._offset_file.read_text() or "0"))
        except (FileNotFoundError, ValueError):
            return timedelta()
