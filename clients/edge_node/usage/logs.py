"""The node's usage logs on disk: listing, reading ranges, rotation, deletion.

`current.log` is a symlink to `<log id>.log`; nginx opens the symlink. A log id is a UUID, made with
the file. It starts with the time (UUID version 7), so ids sort in the order in which the logs were
written.
"""

import os
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from clients.edge_node.nginx import process_scan
from clients.edge_node.usage.log_counter import CountedRange, count_lines, whole_lines
from shared.errors import EdgetlsError


class UsageLogError(EdgetlsError):
    """A log is missing, shorter than the range that was asked for, or not final."""


class UsageLogs:
    """The logs in one folder (a node's `usage`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._symlink = folder / "current.log"

    def ensure_current(self) -> str:
        """Return the current log's id; make the log if there is none. Call it before nginx starts.

        After a crash the same log goes on. A line that the crash tore gets its newline, so that it
        spoils no other line."""
        if not self._symlink.exists():
            return self._make_current()
        with self._symlink.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")
        return self.current_id()

    def current_id(self) -> str:
        """Return the id of the log that nginx writes. Raises UsageLogError if there is none."""
        try:
            return self._symlink.readlink().stem
        except FileNotFoundError:
            raise UsageLogError("there is no current usage log") from None

    def list_ids(self) -> list[str]:
        """Return the ids of all logs, oldest first."""
        return sorted(path.stem for path in self._folder.glob("*.log") if not path.is_symlink())

    def log_size(self, log_id: str) -> int:
        """Return the bytes in a log now. Raises UsageLogError if there is no such log."""
        try:
            return self._log_path(log_id).stat().st_size
        except FileNotFoundError:
            raise UsageLogError(f"usage log {log_id} does not exist") from None

    def final_length(self, log_id: str) -> int | None:
        """Return the length of a log that can grow no more.

        Return None if the log is current or an nginx process has it open."""
        if log_id == self.current_id():
            return None
        # Twice: a worker that forked between the listing of the processes and the reopening is
        # seen by the second look.
        for _ in range(2):
            if process_scan.nginx_holding_file(self._log_path(log_id)):
                return None
        return self.log_size(log_id)

    def rotate(self, reopen: Callable[[], None]) -> str:
        """Start a new log, make nginx open it by ``reopen``, and return the old log's id.

        nginx may still write to the old log. A crash in between leaves nginx on the old log: a
        process that starts beside a running nginx calls ``reopen`` first."""
        old = self.current_id()
        self._make_current()
        reopen()
        return old

    def read_range(self, log_id: str, start: int, end: int) -> CountedRange:
        """Count exactly the bytes [start, end) again.

        Raises UsageLogError if the log does not hold them."""
        data = self.read_bytes(log_id, start, end - start)
        if len(data) != end - start:
            raise UsageLogError(f"usage log {log_id} ends at {start + len(data)}, before {end}")
        return count_lines(log_id, start, data)

    def delete_log(self, log_id: str, confirmed_to: int) -> None:
        """Delete a final log that is confirmed to its end. Raises UsageLogError otherwise."""
        length = self.final_length(log_id)
        if length is None or length != confirmed_to:
            raise UsageLogError(
                f"usage log {log_id} is kept: final length {length}, confirmed to {confirmed_to}"
            )
        self._log_path(log_id).unlink()

    def read_bytes(self, log_id: str, start: int, length: int) -> bytes:
        """Return at most ``length`` bytes of a log from ``start`` on, once they are on the disk.

        Bytes that were reported must survive a power cut, or the log would not hold what was
        billed. Raises UsageLogError if there is no such log."""
        try:
            with self._log_path(log_id).open("rb") as file:
                data = os.pread(file.fileno(), length, start)
                if data:
                    os.fdatasync(file.fileno())
                return data
        except FileNotFoundError:
            raise UsageLogError(f"usage log {log_id} does not exist") from None

    def _make_current(self) -> str:
        if self._symlink.exists():
            self._drop_newer_than(self.current_id())
        log_id = _next_log_id(self.list_ids())
        self._log_path(log_id).touch(mode=0o600, exist_ok=False)
        new_symlink = self._folder / "next.symlink"
        new_symlink.unlink(missing_ok=True)
        new_symlink.symlink_to(f"{log_id}.log")
        new_symlink.replace(self._symlink)
        return log_id

    def _drop_newer_than(self, current: str) -> None:
        """Drop logs that were never written to.

        A crash between making a log and making it the current one leaves such a log."""
        for log_id in self.list_ids():
            if log_id > current:
                self._log_path(log_id).unlink()

    def _log_path(self, log_id: str) -> Path:
        return self._folder / f"{uuid.UUID(log_id)}.log"


class LogReader:
    """Reads one log onwards from a position, in ranges of at most ``limit`` bytes."""

    def __init__(
        self, logs: UsageLogs, log_id: str, position: int = 0, limit: int = 1024 * 1024
    ) -> None:
        self._logs = logs
        self._limit = limit
        self.log_id = log_id
        self.position = position

    def read_next(self, final: bool = False) -> CountedRange | None:
        """Return the next range of whole lines and move past it; None if there is none yet.

        With ``final`` (the log grows no more) a torn last line is read as well, so that the ranges
        reach the end."""
        data = self._logs.read_bytes(self.log_id, self.position, self._limit)
        data = whole_lines(data, self._limit, final)
        if not data:
            return None
        found = count_lines(self.log_id, self.position, data)
        self.position = found.end
        return found


def _next_log_id(ids: list[str]) -> str:
    """Return a UUID of version 7, later than every one in ``ids`` even if the clock was set back.

    The layout is RFC 9562 §5.7: 48 bits of milliseconds, the version, 12 random bits, the variant,
    62 random bits."""
    newest = uuid.UUID(ids[-1]).int >> 80 if ids else 0
    millis = max(time.time_ns() // 1_000_000, newest + 1)
    random = secrets.randbits(74)
    high = millis << 80 | 7 << 76 | (random >> 62) << 64
    low = 2 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=high | low))
