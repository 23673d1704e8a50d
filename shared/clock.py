"""The time, from one place.

On the embedded platform ``EDGETLS_TEST_CLOCK`` names a file with an offset in seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path


class Clock:
    """A clock. ``offset_file`` is read at every call, so that a test can move time while
    services run; None: the real time."""

    def __init__(self, offset_file: Path | None = None) -> None:
        self._offset_file = offset_file

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC) + self._read_offset()

    def _read_offset(self) -> timedelta:
        if self._offset_file is None:
            return timedelta()
        try:
            return timedelta(seconds=float(self._offset_file.read_text() or "0"))
        except (FileNotFoundError, ValueError):
            return timedelta()
