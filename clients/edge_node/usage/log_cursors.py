"""How far each usage log is read, cut into ranges and confirmed; on the disk before anything of it
is sent."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from clients.edge_node.usage.log_counter import Range
from clients.edge_node.usage.logs import LogReader, UsageLogError, UsageLogs
from shared.contracts.edge import LogPosition
from shared.contracts.usage import PreviousLog, UsageBatch, UsageCell
from shared.private_files import write_private

log = structlog.get_logger()
_RANGE_BYTES = 1024 * 1024
_BATCH_BYTES = 900_000
_BATCH_CELLS = 50_000
_MOST_RANGES = 64
_MOST_BYTES = 16 * 1024 * 1024


@dataclass
class Unconfirmed:
    """A range on its way. ``sent_at``: monotonic time of its last PubAck, None before the first."""

    batch: UsageBatch
    size: int
    sent_at: float | None = None


@dataclass
class _Log:
    """``cuts``: ends of the ranges after ``confirmed``. ``final``: its length, once it can grow no
    more; ``told``: the broker has stored a batch that says so; ``previous``: (id, final length) of
    the log before."""

    confirmed: int = 0
    cuts: list[int] = field(default_factory=list)
    final: int | None = None
    told: bool = False
    previous: tuple[str, int] | None = None

    @property
    def read_to(self) -> int:
        return self.cuts[-1] if self.cuts else self.confirmed


class Ledger:
    """``advance`` blocks and belongs in a thread; the rest may be called beside it."""

    def __init__(self, node: str, logs: UsageLogs, file: Path) -> None:
        self._node, self._logs, self._file = node, logs, file
        self._lock = threading.Lock()
        self._known = _read(file)
        self._waiting: dict[str, list[Unconfirmed]] = {}
        self._dirty = False

    def positions(self) -> list[LogPosition]:
        with self._lock:
            return [
                LogPosition(log=name, read_to=known.read_to, confirmed_to=known.confirmed)
                for name, known in sorted(self._known.items())
            ]

    def unconfirmed_bytes(self) -> int:
        with self._lock:
            return sum(known.read_to - known.confirmed for known in self._known.values())

    def send_all_again(self) -> None:
        """A new connection may be a new broker, which has nothing."""
        with self._lock:
            for waiting in self._waiting.values():
                for one in waiting:
                    one.sent_at = None

    def confirm(self, name: str, end: int) -> None:
        """Billing has committed ``name`` up to ``end``. An end inside a range (the notes of this
        node were lost) has the rest cut anew from there."""
        with self._lock:
            known = self._known.get(name)
            if known is None or end <= known.confirmed:
                return
            if end not in known.cuts:
                log.warning("usage.recut", log=name, end=end)
                known.cuts, self._waiting[name] = [], []
            known.confirmed = end
            known.cuts = [cut for cut in known.cuts if cut > end]
            self._waiting[name] = [
                one for one in self._waiting.get(name, []) if one.batch.end > end
            ]
            self._dirty = True

    def stored(self, one: Unconfirmed) -> None:
        """The broker has it."""
        with self._lock:
            known = self._known.get(one.batch.log)
            if known is not None and one.batch.final and not known.told:
                known.told = self._dirty = True

    def empty(self) -> Unconfirmed | None:
        """Says how far the current log is read, where nothing else does."""
        name = self._logs.current_id()
        with self._lock:
            known = self._known.get(name)
            return None if known is None else self._mark(name, known)

    def advance(self) -> list[Unconfirmed]:
        """Cuts what has been written since, and gives all that is not confirmed, oldest first.

        Deletes logs that are final and confirmed to their end."""
        names = self._logs.ids()
        current = self._logs.current_id()
        found: list[Unconfirmed] = []
        for name in names:
            self._look(name, name == current)
            self._rebuild(name)
            while self._room() and (one := self._cut(name)):
                self._keep(name, one)
            with self._lock:
                found += self._waiting[name]
                known = self._known[name]
                if known.final is not None and known.read_to >= known.final and not known.told:
                    found.append(self._mark(name, known))
        self._save()
        self._delete(set(names))
        return found

    def _look(self, name: str, is_current: bool) -> None:
        """Learns of a log, of its end, and of the end of the one before."""
        with self._lock:
            known = self._known.setdefault(name, _Log())
            self._waiting.setdefault(name, [])
            before = max((other for other in self._known if other < name), default=None)
            final = self._known[before].final if before else None
            if known.previous is None and before and final is not None:
                known.previous, self._dirty = (before, final), True
        if not is_current and known.final is None:
            length = self._logs.final_length(name)
            with self._lock:
                known.final, self._dirty = length, length is not None or self._dirty

    def _rebuild(self, name: str) -> None:
        """After a restart: the ranges that were cut, counted again. What the log does not hold is
        cut anew."""
        with self._lock:
            known, waiting = self._known[name], self._waiting[name]
            missing = (
                []
                if waiting
                else list(zip([known.confirmed, *known.cuts], known.cuts, strict=False))
            )
        for start, end in missing:
            try:
                one = self._batch(name, self._logs.read_range(name, start, end))
            except UsageLogError as error:
                log.error("usage.log_is_shorter", log=name, error=str(error))
                with self._lock:
                    known.cuts, self._dirty = [cut for cut in known.cuts if cut <= start], True
                return
            with self._lock:
                if end > known.confirmed:
                    waiting.append(one)

    def _room(self) -> bool:
        with self._lock:
            waiting = [one for several in self._waiting.values() for one in several]
        return len(waiting) < _MOST_RANGES and sum(one.size for one in waiting) < _MOST_BYTES

    def _cut(self, name: str) -> Unconfirmed | None:
        """The next range, small enough for one message; None where nothing is left."""
        with self._lock:
            known = self._known[name]
            position, final = known.read_to, known.final is not None
        limit = _RANGE_BYTES
        while True:
            found = LogReader(self._logs, name, position, limit).read(final)
            if found is None:
                return None
            one = self._batch(name, found)
            if (one.size <= _BATCH_BYTES and len(one.batch.cells) <= _BATCH_CELLS) or limit <= 4096:
                return one
            limit //= 4

    def _keep(self, name: str, one: Unconfirmed) -> None:
        with self._lock:
            known = self._known[name]
            if (
                one.batch.start == known.read_to
            ):  # else a confirmation came in between and cuts anew
                known.cuts.append(one.batch.end)
                self._waiting[name].append(one)
                self._dirty = True

    def _batch(self, name: str, found: Range) -> Unconfirmed:
        with self._lock:
            known = self._known[name]
        cells = [
            UsageCell(
                domain=domain,
                minute=minute,
                https_requests=cell.https_requests,
                https_bytes=cell.https_bytes,
                http_requests=cell.http_requests,
                http_bytes=cell.http_bytes,
            )
            for (domain, minute), cell in found.cells.items()
        ]
        batch = self._made(name, known, found.start, found.end, cells, found.bad_lines)
        return Unconfirmed(batch, len(batch.encode()))

    def _mark(self, name: str, known: _Log) -> Unconfirmed:
        """An empty range at the end of what was read."""
        return Unconfirmed(self._made(name, known, known.read_to, known.read_to, [], 0), 0)

    def _made(
        self, name: str, known: _Log, start: int, end: int, cells: list[UsageCell], bad_lines: int
    ) -> UsageBatch:
        previous = (
            PreviousLog(log=known.previous[0], length=known.previous[1]) if known.previous else None
        )
        return UsageBatch(
            node=self._node,
            log=name,
            start=start,
            end=end,
            read_to=max(end, known.read_to),
            previous=previous,
            cells=cells,
            bad_lines=bad_lines,
            final=known.final is not None and end >= known.final,
        )

    def _delete(self, present: set[str]) -> None:
        """What is written down already: a crash after it leaves a note too many, never a file too
        few."""
        with self._lock:
            known = dict(self._known)
        for name, one in known.items():
            done = one.told and one.final is not None and one.confirmed >= one.final
            if name in present and done:
                try:
                    self._logs.delete(name, one.confirmed)
                except UsageLogError as error:
                    log.warning("usage.kept", log=name, error=str(error))
                    continue
                log.info("usage.deleted", log=name, bytes=one.confirmed)
            elif name in present:
                continue
            elif not done:
                log.error(
                    "usage.log_is_gone", log=name, confirmed=one.confirmed, read_to=one.read_to
                )
            # The end of a log is needed until the next one's batches carry it.
            if not done or any(other.previous for later, other in known.items() if later > name):
                self._forget(name)
        self._save()

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)
            self._waiting.pop(name, None)
            self._dirty = True

    def _save(self) -> None:
        """Blocking; before anything is sent."""
        with self._lock:
            if not self._dirty:
                return
            rows = {name: vars(known) for name, known in self._known.items()}
            text, self._dirty = json.dumps(rows), False
        try:
            write_private(self._file, text + "\n")
        except OSError:
            self._dirty = True  # else the next round would send what is not written down
            raise


def _read(file: Path) -> dict[str, _Log]:
    try:
        rows: dict[str, dict[str, Any]] = json.loads(file.read_text())
        known = {name: _Log(**row) for name, row in rows.items()}
        for one in known.values():
            one.previous = (one.previous[0], one.previous[1]) if one.previous else None
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, IndexError):
        log.error("usage.notes_unreadable", file=file.name)
        return {}
    return known
