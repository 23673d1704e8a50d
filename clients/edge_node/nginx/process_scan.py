"""Find nginx processes of this machine by the files that they hold open, from /proc (Linux)."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def nginx_using_folder(folder: Path) -> list[int]:
    """Return the pids of nginx processes that hold a file under ``folder`` open."""
    prefix = f"{folder.resolve()}/"
    pids = []
    for pid in _nginx_pids():
        files = _open_files(pid) or ()
        if any(target.startswith(prefix) for target in files):
            pids.append(pid)
    return pids


def nginx_holding_file(file: Path) -> list[int]:
    """Return the pids of nginx processes that hold, or may hold, ``file`` open.

    While there is one, the file may still grow. A process of our own user that does not show its
    files (a binary with capabilities, for example) may hold it."""
    path = str(file.resolve())
    holders = []
    for pid in _nginx_pids():
        files = _open_files(pid)
        if files is None and _is_ours(pid):
            holders.append(pid)
        if files is not None and path in files:
            holders.append(pid)
    return holders


def find_master(pid_file: Path, folder: Path) -> int | None:
    """Return the pid in an nginx pid file if it is an nginx of ``folder``, else None.

    After a crash the number may belong to any process, to another nginx too. A process that does
    not show its files is recognized by its command line (`-p <folder>/`)."""
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not _is_nginx(pid):
        return None
    prefix = f"{folder.resolve()}/"
    files = _open_files(pid)
    if files is None:
        is_master = f"-p {prefix} " in _command_line(pid)
    else:
        is_master = any(target.startswith(prefix) for target in files)
    return pid if is_master else None


def kill_processes(pids: list[int], limit: float = 5.0) -> bool:
    """Kill the given nginx processes. Return False if one still runs after ``limit`` seconds."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + limit
    while any(_is_nginx(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _nginx_pids() -> list[int]:
    pids = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _is_nginx(int(path.name)):
            pids.append(int(path.name))
    return pids


def _is_nginx(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    name, state = stat[stat.index("(") + 1 :].rsplit(") ", 1)
    return name == "nginx" and not state.startswith("Z")


def _open_files(pid: int) -> set[str] | None:
    """Return the paths that a process has open; None if the process does not show them to us."""
    found: set[str] = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(descriptor.readlink()))
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_ours(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return f"\nUid:\t{os.geteuid()}\t" in status
