"""Cut usage logs into ranges, and keep how far each log is cut and confirmed: on the disk before a
range is sent.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from clients.edge_node.usage.log_counter import CountedRange
from clients.edge_node.usage.logs import LogReader, UsageLogError, UsageLogs
from shared.contracts.edge import LogPosition
from shared.contracts.usage import PreviousLog, UsageBatch, UsageCell
from shared.private_files import write_private

log = structlog.get_logger()
_RANGE_BYTES = 1024 * 1024
_MIN_RANGE_BYTES = 4096
_MAX_BATCH_BYTES = 900_000
_MAX_BATCH_CELLS = 50_000
_MAX_WAITING_RANGES = 64
_MAX_WAITING_BYTES = 16 * 1024 * 1024


@dataclass
class UnconfirmedRange:
    """A range on its way. ``sent_at``: monotonic time of its last PubAck, None before the first."""

    batch: UsageBatch
    size: int
    sent_at: float | None = None


@dataclass
class _LogCursor:
    """How far one log is read and confirmed, in bytes.

    ``cuts``: the ends of the ranges after ``confirmed``, ascending. ``final_length``: set once the
    log can grow no more. ``end_is_stored``: the broker has stored a batch that carries the end.
    ``previous``: the log before this one, with its final length."""

    confirmed: int = 0
    cuts: list[int] = field(default_factory=list)
    final_length: int | None = None
    end_is_stored: bool = False
    previous: PreviousLog | None = None

    @property
    def read_to(self) -> int:
        return self.cuts[-1] if self.cuts else self.confirmed

    @property
    def is_read_to_end(self) -> bool:
        return self.final_length is not None and self.read_to >= self.final_length

    @property
    def is_finished(self) -> bool:
        """Return whether billing has all of the log, and knows that it ends there."""
        if self.final_length is None or not self.end_is_stored:
            return False
        return self.confirmed >= self.final_length

    def to_row(self) -> dict[str, Any]:
        """Return the row of usage.json; `from_row` reads it."""
        previous = self.previous
        return {
            "confirmed": self.confirmed,
            "cuts": self.cuts,
            "final": self.final_length,
            "told": self.end_is_stored,
            "previous": [previous.log, previous.length] if previous else None,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> _LogCursor:
        cursor = cls(
            confirmed=row.get("confirmed", 0),
            cuts=row.get("cuts", []),
            final_length=row.get("final"),
            end_is_stored=row.get("told", False),
        )
        if previous := row.get("previous"):
            cursor.previous = PreviousLog(log=previous[0], length=previous[1])
        return cursor


class LogCursors:
    """The cursors of one node's usage logs, kept in ``file``.

    `collect_ranges` blocks and belongs in a thread; the other methods may be called beside it."""

    # The invariant, for each log: confirmed < cuts[0] < cuts[1] < … = read_to. The cuts are on the
    # disk before a range that ends at one of them is sent. So after a crash the same ranges are
    # sent again, never others, and billing can tell a repetition from an overlap.
    # `_waiting` holds one range for each cut, in order. It is in memory only: after a restart the
    # ranges between the cuts are counted again from the log, and the same bytes give the same
    # counts.
    # Billing decides where a log stands. A confirmation that ends inside a range means that this
    # node has lost its cuts (usage.json is gone): the rest is cut again from the confirmed end.
    # A log is deleted only when it is final, confirmed to its end, and the cursor that says so is
    # on the disk: a crash then leaves a cursor too many, never a log too few.
    # `collect_ranges` reads logs without the lock; a cut counts only if the cursor has not moved.

    def __init__(self, node: str, logs: UsageLogs, file: Path) -> None:
        self._node = node
        self._logs = logs
        self._file = file
        self._lock = threading.Lock()
        self._cursors = _load_cursors(file)
        self._waiting: dict[str, list[UnconfirmedRange]] = {}
        self._is_dirty = False

    def log_positions(self) -> list[LogPosition]:
        """Return how far each log is read and confirmed, oldest log first."""
        positions = []
        with self._lock:
            for name, cursor in sorted(self._cursors.items()):
                positions.append(
                    LogPosition(log=name, read_to=cursor.read_to, confirmed_to=cursor.confirmed)
                )
        return positions

    def unconfirmed_bytes(self) -> int:
        """Return how many bytes are read and not confirmed, over all logs."""
        with self._lock:
            return sum(cursor.read_to - cursor.confirmed for cursor in self._cursors.values())

    def send_all_again(self) -> None:
        """Mark every range as not sent: a new connection may be a new, empty broker."""
        with self._lock:
            for waiting in self._waiting.values():
                for unconfirmed in waiting:
                    unconfirmed.sent_at = None

    def confirm_up_to(self, name: str, end: int) -> None:
        """Note that billing has committed the log ``name`` up to ``end``.

        An end inside a range (usage.json was lost) has the rest cut again from there."""
        with self._lock:
            cursor = self._cursors.get(name)
            if cursor is None or end <= cursor.confirmed:
                return
            if end not in cursor.cuts:
                log.warning("usage.range_recut", log=name, end=end)
                cursor.cuts = []
                self._waiting[name] = []
            cursor.confirmed = end
            cursor.cuts = [cut for cut in cursor.cuts if cut > end]
            waiting = self._waiting.get(name, [])
            self._waiting[name] = [one for one in waiting if one.batch.end > end]
            self._is_dirty = True

    def mark_stored(self, stored: UnconfirmedRange) -> None:
        """Note that the broker has stored a range."""
        with self._lock:
            cursor = self._cursors.get(stored.batch.log)
            if cursor is not None and stored.batch.final and not cursor.end_is_stored:
                cursor.end_is_stored = True
                self._is_dirty = True

    def make_end_range(self) -> UnconfirmedRange | None:
        """Return an empty range that says how far the current log is read; None without a log."""
        name = self._logs.current_id()
        with self._lock:
            cursor = self._cursors.get(name)
            return None if cursor is None else self._make_end_range(name, cursor)

    def collect_ranges(self) -> list[UnconfirmedRange]:
        """Cut what has been written since; return all unconfirmed ranges, oldest first.

        Deletes logs that are final and confirmed to their end. Blocking. Raises OSError when the
        cursors cannot be saved."""
        names = self._logs.list_ids()
        current = self._logs.current_id()
        collected: list[UnconfirmedRange] = []
        for name in names:
            self._update_cursor(name, name == current)
            self._recount_ranges(name)
            while self._has_room() and (cut := self._cut_range(name)):
                self._append_range(name, cut)
            with self._lock:
                collected += self._waiting[name]
                cursor = self._cursors[name]
                if cursor.is_read_to_end and not cursor.end_is_stored:
                    collected.append(self._make_end_range(name, cursor))
        self._save()
        self._delete_finished(set(names))
        return collected

    def _update_cursor(self, name: str, is_current: bool) -> None:
        """Make the cursor of a new log; learn the ends of this log and of the one before."""
        with self._lock:
            cursor = self._cursors.setdefault(name, _LogCursor())
            self._waiting.setdefault(name, [])
            if cursor.previous is None:
                cursor.previous = self._find_previous(name)
                self._is_dirty = self._is_dirty or cursor.previous is not None
        if not is_current and cursor.final_length is None:
            length = self._logs.final_length(name)
            with self._lock:
                cursor.final_length = length
                self._is_dirty = self._is_dirty or length is not None

    def _find_previous(self, name: str) -> PreviousLog | None:
        """Return the log before ``name`` once its final length is known, else None."""
        before = max((other for other in self._cursors if other < name), default=None)
        if before is None:
            return None
        length = self._cursors[before].final_length
        return None if length is None else PreviousLog(log=before, length=length)

    def _recount_ranges(self, name: str) -> None:
        """Count the cut ranges again after a restart; cut again where the log became shorter."""
        with self._lock:
            cursor = self._cursors[name]
            waiting = self._waiting[name]
            starts = [cursor.confirmed, *cursor.cuts]
            missing = [] if waiting else list(zip(starts, cursor.cuts, strict=False))
        for start, end in missing:
            try:
                counted = self._make_range(name, self._logs.read_range(name, start, end))
            except UsageLogError as error:
                log.error("usage.log_shortened", log=name, error=str(error))
                with self._lock:
                    cursor.cuts = [cut for cut in cursor.cuts if cut <= start]
                    self._is_dirty = True
                return
            with self._lock:
                if end > cursor.confirmed:
                    waiting.append(counted)

    def _has_room(self) -> bool:
        count = 0
        size = 0
        with self._lock:
            for waiting in self._waiting.values():
                count += len(waiting)
                size += sum(unconfirmed.size for unconfirmed in waiting)
        return count < _MAX_WAITING_RANGES and size < _MAX_WAITING_BYTES

    def _cut_range(self, name: str) -> UnconfirmedRange | None:
        """Return the next range, small enough for one message; None where nothing is left."""
        with self._lock:
            cursor = self._cursors[name]
            position = cursor.read_to
            is_final = cursor.final_length is not None
        limit = _RANGE_BYTES
        while True:
            found = LogReader(self._logs, name, position, limit).read_next(is_final)
            if found is None:
                return None
            cut = self._make_range(name, found)
            fits = cut.size <= _MAX_BATCH_BYTES and len(cut.batch.cells) <= _MAX_BATCH_CELLS
            if fits or limit <= _MIN_RANGE_BYTES:
                return cut
            limit //= 4

    def _append_range(self, name: str, cut: UnconfirmedRange) -> None:
        """Keep a range that was cut, unless a confirmation moved the cursor meanwhile."""
        with self._lock:
            cursor = self._cursors[name]
            if cut.batch.start == cursor.read_to:
                cursor.cuts.append(cut.batch.end)
                self._waiting[name].append(cut)
                self._is_dirty = True

    def _make_range(self, name: str, found: CountedRange) -> UnconfirmedRange:
        with self._lock:
            cursor = self._cursors[name]
        cells = []
        for (domain, minute), counts in found.cells.items():
            cells.append(
                UsageCell(
                    domain=domain,
                    minute=minute,
                    https_requests=counts.https_requests,
                    https_bytes=counts.https_bytes,
                    http_requests=counts.http_requests,
                    http_bytes=counts.http_bytes,
                )
            )
        batch = self._make_batch(name, cursor, found.start, found.end, cells, found.bad_lines)
        return UnconfirmedRange(batch, len(batch.encode()))

    def _make_end_range(self, name: str, cursor: _LogCursor) -> UnconfirmedRange:
        """Return an empty range at the end of what was read."""
        end = cursor.read_to
        return UnconfirmedRange(self._make_batch(name, cursor, end, end, [], bad_lines=0), size=0)

    def _make_batch(
        self,
        name: str,
        cursor: _LogCursor,
        start: int,
        end: int,
        cells: list[UsageCell],
        bad_lines: int,
    ) -> UsageBatch:
        return UsageBatch(
            node=self._node,
            log=name,
            start=start,
            end=end,
            read_to=max(end, cursor.read_to),
            previous=cursor.previous,
            cells=cells,
            bad_lines=bad_lines,
            final=cursor.final_length is not None and end >= cursor.final_length,
        )

    def _delete_finished(self, present: set[str]) -> None:
        """Delete the logs that are finished, and forget the cursors that are not needed."""
        with self._lock:
            cursors = dict(self._cursors)
        for name, cursor in cursors.items():
            if name in present:
                if not cursor.is_finished or not self._delete_log(name, cursor.confirmed):
                    continue
            elif not cursor.is_finished:
                log.error(
                    "usage.log_lost", log=name, confirmed=cursor.confirmed, read_to=cursor.read_to
                )
            # The end of a log is needed until the batches of a later one carry it.
            later_has_previous = any(
                other.previous for later, other in cursors.items() if later > name
            )
            if later_has_previous or not cursor.is_finished:
                self._forget_log(name)
        self._save()

    def _delete_log(self, name: str, confirmed: int) -> bool:
        """Delete a log; return False when it has to be kept."""
        try:
            self._logs.delete_log(name, confirmed)
        except UsageLogError as error:
            log.warning("usage.log_kept", log=name, error=str(error))
            return False
        log.info("usage.log_deleted", log=name, bytes=confirmed)
        return True

    def _forget_log(self, name: str) -> None:
        with self._lock:
            self._cursors.pop(name, None)
            self._waiting.pop(name, None)
            self._is_dirty = True

    def _save(self) -> None:
        """Write the cursors to disk if they changed. Raises OSError."""
        with self._lock:
            if not self._is_dirty:
                return
            rows = {name: cursor.to_row() for name, cursor in self._cursors.items()}
            text = json.dumps(rows)
            self._is_dirty = False
        try:
            write_private(self._file, text + "\n")
        except OSError:
            # Otherwise the next round would send ranges whose cuts are not on the disk.
            self._is_dirty = True
            raise


def _load_cursors(file: Path) -> dict[str, _LogCursor]:
    try:
        rows: dict[str, dict[str, Any]] = json.loads(file.read_text())
        return {name: _LogCursor.from_row(row) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, LookupError):
        log.error("usage.cursors_discarded", file=file.name, reason="not readable")
        return {}
