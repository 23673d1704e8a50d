"""Processes of a data folder that outlived their supervisor, found by what it recorded and by their
marks.

A child is the leader of a session of its own; its pid with its start time is in ``pids.json``, and
``EDGETLS_EMBEDDED_DATA=<folder>`` in its environment. nginx and PostgreSQL overwrite their
environment, and PostgreSQL's children make sessions of their own: the first are found by session,
the second by program and folder.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.private_files import write_private

MARK: Final = "EDGETLS_EMBEDDED_DATA"
PIDS_FILE: Final = "pids.json"
POSTGRES_DATA: Final = Path("postgres", "data")


@dataclass(frozen=True)
class Stamp:
    """A process that cannot be mistaken for a later one with its number. ``started``: clock ticks
    since boot."""

    pid: int
    started: int


@dataclass(frozen=True)
class _Process:
    pid: int
    session: int
    started: int


def stamp(pid: int) -> Stamp | None:
    """None when there is no such process (a zombie is none)."""
    found = _read(pid)
    return Stamp(pid, found.started) if found else None


def record(data: Path, stamps: Mapping[str, Stamp]) -> None:
    pids = {name: [one.pid, one.started] for name, one in stamps.items()}
    write_private(data / PIDS_FILE, json.dumps({"boot": _boot(), "pids": pids}, indent=1) + "\n")


def recorded(data: Path) -> dict[str, Stamp]:
    """Nothing when the machine was started anew since: the numbers mean other processes now."""
    try:
        content = json.loads((data / PIDS_FILE).read_text())
        if content["boot"] != _boot():
            return {}
        return {name: Stamp(pid, started) for name, (pid, started) in content["pids"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def find(data: Path) -> list[int]:
    """Pids of every process of ``data`` (an absolute path), the caller's own excluded."""
    processes = list(_all())
    sessions = _sessions(processes, recorded(data).values())
    return [
        one.pid
        for one in processes
        if one.pid != os.getpid() and (one.session in sessions or _is_marked(one.pid, data))
    ]


def end(data: Path, limit: float = 10.0) -> list[int]:
    """Ends them all at once; their pids. SIGKILL: nothing here needs more to stay consistent.

    TimeoutError names those that are still there after ``limit`` seconds."""
    ended: list[int] = []
    deadline = time.monotonic() + limit
    while found := find(data):
        ended += _kill(found, ended)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {data} do not end: {', '.join(map(str, found))}")
        time.sleep(0.02)
    return ended


def end_session(leader: Stamp) -> None:
    """Ends what a dead child left behind, nginx's workers for one; a living leader too."""
    processes = list(_all())
    sessions = _sessions(processes, [leader])
    _kill((one.pid for one in processes if one.session in sessions), [])


def end_postgres(data: Path, limit: float = 5.0) -> None:
    """Ends what works in the PostgreSQL data folder: a new server refuses to start beside an old
    backend."""
    deadline = time.monotonic() + limit
    while found := [one.pid for one in _all() if _is_postgres(one.pid, data)]:
        _kill(found, [])
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"old PostgreSQL processes of {data} do not end: {', '.join(map(str, found))}"
            )
        time.sleep(0.01)


def _sessions(processes: list[_Process], leaders: Iterable[Stamp]) -> set[int]:
    """Of the recorded leaders, those whose number means the same process still, or nobody but their
    session."""
    started = {one.pid: one.started for one in processes}
    return {
        leader.pid
        for leader in leaders
        if started.get(leader.pid, leader.started) == leader.started
    }


def _kill(pids: Iterable[int], known: list[int]) -> list[int]:
    fresh = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            if pid not in known:
                fresh.append(pid)
    return fresh


def _is_marked(pid: int, data: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={data}".encode() in environment.split(b"\0") or _is_postgres(pid, data)


def _is_postgres(pid: int, data: Path) -> bool:
    try:
        program, folder = Path(f"/proc/{pid}/exe").readlink(), Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return False
    return program.name == "postgres" and folder == (data / POSTGRES_DATA)


def _all() -> Iterable[_Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _read(int(entry.name))):
            yield found


def _read(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in brackets and may hold any character: count from the last bracket. See
    # proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    return (
        None
        if fields[0] in "ZX"
        else _Process(pid, session=int(fields[3]), started=int(fields[19]))
    )


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
