"""The node's usage logs on disk: which there are, reading ranges, rotation, deletion.

`current.log` is a symlink to `<log id>.log`; nginx opens the symlink. A log id is a UUID made with
the file; it starts with the time (UUID version 7), so that ids sort in the order in which the logs
were written.
"""

import os
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from clients.edge_node.nginx import processes
from clients.edge_node.usage.log_counter import Range, count, whole_lines
from shared.errors import EdgetlsError


class UsageLogError(EdgetlsError):
    """A log is not what the caller takes it for: not there, shorter than asked for, not final."""


class UsageLogs:
    """The logs in one folder (a node's `usage`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._symlink = folder / "current.log"

    def ensure_current(self) -> str:
        """The current log's id; makes the log if there is none. To be called before nginx starts.

        After a crash the same log goes on. A line that the crash tore is closed, so that it spoils
        no other.
        """
        if not self._symlink.exists():
            return self._make_current()
        with self._symlink.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")
        return self.current_id()

    def current_id(self) -> str:
        """Id of the log that nginx writes. Raises UsageLogError if there is none yet."""
        try:
            return self._symlink.readlink().stem
        except FileNotFoundError:
            raise UsageLogError("there is no current usage log") from None

    def ids(self) -> list[str]:
        """Ids of all logs, oldest first."""
        return sorted(path.stem for path in self._folder.glob("*.log") if not path.is_symlink())

    def size(self, log_id: str) -> int:
        """Bytes in a log now."""
        try:
            return self._path(log_id).stat().st_size
        except FileNotFoundError:
            raise UsageLogError(f"log {log_id} is not there") from None

    def final_length(self, log_id: str) -> int | None:
        """The length of a log that can grow no more, or None if it is current or an nginx process
        has it open."""
        # Twice: a worker forked between the listing of the processes and the reopening is seen by
        # the second.
        if log_id == self.current_id() or any(
            processes.nginx_with_open(self._path(log_id)) for _ in range(2)
        ):
            return None
        return self.size(log_id)

    def rotate(self, reopen: Callable[[], None]) -> str:
        """Starts a new log, tells nginx by `reopen`, and returns the old log's id, which nginx may
        yet write to.

        A crash in between leaves nginx on the old log: whoever starts beside a running nginx calls
        `reopen` first.
        """
        old = self.current_id()
        self._make_current()
        reopen()
        return old

    def read_range(self, log_id: str, start: int, end: int) -> Range:
        """Counts exactly the bytes [start, end) again. Raises UsageLogError if the log does not
        hold them."""
        data = self.read_bytes(log_id, start, end - start)
        if len(data) != end - start:
            raise UsageLogError(f"log {log_id} ends at {start + len(data)}, before {end}")
        return count(log_id, start, data)

    def delete(self, log_id: str, confirmed_to: int) -> None:
        """Deletes a final log that was confirmed to its end. Raises UsageLogError if it is anything
        else."""
        length = self.final_length(log_id)
        if length is None or length != confirmed_to:
            raise UsageLogError(
                f"log {log_id} is kept: final length {length}, confirmed to {confirmed_to}"
            )
        self._path(log_id).unlink()

    def read_bytes(self, log_id: str, start: int, length: int) -> bytes:
        """At most `length` bytes of a log from `start` on, once they are on the disk.

        What was reported must survive a power cut, or the log would not hold what was billed.
        """
        try:
            with self._path(log_id).open("rb") as file:
                data = os.pread(file.fileno(), length, start)
                if data:
                    os.fdatasync(file.fileno())
                return data
        except FileNotFoundError:
            raise UsageLogError(f"log {log_id} is not there") from None

    def _make_current(self) -> str:
        if self._symlink.exists():
            self._drop_newer_than(self.current_id())
        log_id = _next_id(self.ids())
        self._path(log_id).touch(mode=0o600, exist_ok=False)
        swap = self._folder / "next.symlink"
        swap.unlink(missing_ok=True)
        swap.symlink_to(f"{log_id}.log")
        swap.replace(self._symlink)
        return log_id

    def _drop_newer_than(self, current: str) -> None:
        """Drops what a crash left behind between making a log and making it the current one: never
        written to."""
        for log_id in self.ids():
            if log_id > current:
                self._path(log_id).unlink()

    def _path(self, log_id: str) -> Path:
        return self._folder / f"{uuid.UUID(log_id)}.log"


class LogReader:
    """Reads one log onwards from a position, in ranges of at most `limit` bytes."""

    def __init__(
        self, logs: UsageLogs, log_id: str, position: int = 0, limit: int = 1024 * 1024
    ) -> None:
        self._logs = logs
        self.log_id = log_id
        self.position = position
        self._limit = limit

    def read(self, final: bool = False) -> Range | None:
        """The next range of whole lines, or None if there is none yet; moves the position past it.

        With `final` (the log grows no more) a torn last line is read as well, so the ranges reach
        the end.
        """
        data = self._logs.read_bytes(self.log_id, self.position, self._limit)
        data = whole_lines(data, self._limit, final)
        if not data:
            return None
        found = count(self.log_id, self.position, data)
        self.position = found.end
        return found


def _next_id(ids: list[str]) -> str:
    """A UUID of version 7, later than every one in `ids` even if the clock was set back."""
    newest = uuid.UUID(ids[-1]).int >> 80 if ids else 0
    millis = max(time.time_ns() // 1_000_000, newest + 1)
    random = secrets.randbits(74)
    return str(
        uuid.UUID(
            int=millis << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & (1 << 62) - 1
        )
    )
