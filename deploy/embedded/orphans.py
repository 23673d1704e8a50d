"""Processes of a data folder, found without their supervisor: after it died, nothing of it may run
on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.private_files import write_private

# How a process is found, and why three ways are needed:
# - By its session. Each child of the supervisor leads a session of its own, and its pid with its
#   start time is in ``pids.json``. This finds nginx's workers, which overwrite their environment.
# - By its environment, where the supervisor sets MARK to the data folder. This finds a child whose
#   supervisor died before it wrote ``pids.json``.
# - By its program and its working folder: PostgreSQL overwrites its environment, and each of its
#   backends makes a session of its own.
# A pid alone proves nothing: after a reboot, or after enough new processes, another process has the
# number. The start time distinguishes the two.
MARK: Final = "EDGETLS_EMBEDDED_DATA"
PIDS_FILE: Final = "pids.json"
POSTGRES_DATA: Final = Path("postgres", "data")
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class ProcessStamp:
    """Identity of a process, which no later process with its number shares. ``started``: clock
    ticks since boot."""

    pid: int
    started: int


@dataclass(frozen=True)
class _ProcessEntry:
    pid: int
    session: int
    started: int


def read_stamp(pid: int) -> ProcessStamp | None:
    """Return the stamp of a running process; None when there is none (a zombie does not count)."""
    found = _read_process(pid)
    return ProcessStamp(pid, found.started) if found else None


def record_processes(data: Path, stamps: Mapping[str, ProcessStamp]) -> None:
    """Write the stamps of all processes of ``data``, by name, to ``pids.json``."""
    pids = {name: [one.pid, one.started] for name, one in stamps.items()}
    content = {"boot": _boot_id(), "pids": pids}
    write_private(data / PIDS_FILE, json.dumps(content, indent=1) + "\n")


def recorded_processes(data: Path) -> dict[str, ProcessStamp]:
    """Return the recorded stamps by name; nothing when the machine was started anew since."""
    try:
        content = json.loads((data / PIDS_FILE).read_text())
        if content["boot"] != _boot_id():
            return {}
        stamps: dict[str, ProcessStamp] = {}
        for name, (pid, started) in content["pids"].items():
            stamps[name] = ProcessStamp(pid, started)
        return stamps
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def find_orphans(data: Path) -> list[int]:
    """Return the pids of all processes of ``data`` (an absolute path) but this one."""
    processes = list(_all_processes())
    sessions = _live_sessions(processes, recorded_processes(data).values())
    found: list[int] = []
    for process in processes:
        if process.pid == os.getpid():
            continue
        if process.session in sessions or _is_marked(process.pid, data):
            found.append(process.pid)
    return found


def end_orphans(data: Path, limit: float = 10.0) -> list[int]:
    """Kill all processes of ``data`` at once and return their pids.

    SIGKILL: every program here recovers from it. TimeoutError names those that are still there
    after ``limit`` seconds."""
    ended: dict[int, None] = {}
    deadline = time.monotonic() + limit
    while found := find_orphans(data):
        ended.update(dict.fromkeys(_kill_all(found)))
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {data} do not end: {', '.join(map(str, found))}")
        time.sleep(_POLL_SECONDS)
    return list(ended)


def end_session(leader: ProcessStamp) -> None:
    """Kill all processes of a session, such as nginx's workers after their master died."""
    processes = list(_all_processes())
    sessions = _live_sessions(processes, [leader])
    _kill_all(process.pid for process in processes if process.session in sessions)


def end_postgres(data: Path, limit: float = 5.0) -> None:
    """Kill all PostgreSQL processes of ``data``: a new server refuses to start beside an old
    backend."""
    deadline = time.monotonic() + limit
    while found := [one.pid for one in _all_processes() if _is_postgres(one.pid, data)]:
        _kill_all(found)
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"old PostgreSQL processes of {data} do not end: {', '.join(map(str, found))}"
            )
        time.sleep(_POLL_SECONDS)


def _live_sessions(processes: Sequence[_ProcessEntry], leaders: Iterable[ProcessStamp]) -> set[int]:
    """Return the session ids of ``leaders`` that are still theirs."""
    started = {one.pid: one.started for one in processes}
    sessions: set[int] = set()
    for leader in leaders:
        # A leader that is gone counts: the kernel does not reuse its number while its session has a
        # process. A number with another start time was reused, so that session had ended.
        if started.get(leader.pid, leader.started) == leader.started:
            sessions.add(leader.pid)
    return sessions


def _kill_all(pids: Iterable[int]) -> list[int]:
    """Kill the processes; return those that were still there."""
    killed: list[int] = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def _is_marked(pid: int, data: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={data}".encode() in environment.split(b"\0") or _is_postgres(pid, data)


def _is_postgres(pid: int, data: Path) -> bool:
    try:
        program = Path(f"/proc/{pid}/exe").readlink()
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return False
    return program.name == "postgres" and folder == (data / POSTGRES_DATA)


def _all_processes() -> Iterator[_ProcessEntry]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _read_process(int(entry.name))):
            yield found


def _read_process(pid: int) -> _ProcessEntry | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in brackets and may hold any character: count the fields from the last
    # bracket. See proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    state = fields[0]
    if state in "ZX":
        return None
    return _ProcessEntry(pid, session=int(fields[3]), started=int(fields[19]))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
