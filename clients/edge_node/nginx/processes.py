"""Which nginx processes of this machine have a file of the node open, read from /proc (Linux)."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def nginx_with_open_file_in(folder: Path) -> list[int]:
    """Pids of nginx processes that hold a file under `folder` open."""
    inside = f"{folder.resolve()}/"
    return [
        pid
        for pid in _nginx_pids()
        if any(target.startswith(inside) for target in _open_files(pid) or ())
    ]


def nginx_with_open(file: Path) -> list[int]:
    """Pids of nginx processes that hold, or may hold, `file` open: while there is one, the file may
    still grow.

    One of our own user that does not show its files (a binary with capabilities is like that) may
    hold it.
    """
    path = str(file.resolve())
    holders = []
    for pid in _nginx_pids():
        files = _open_files(pid)
        if _is_ours(pid) if files is None else path in files:
            holders.append(pid)
    return holders


def master(pid_file: Path, folder: Path) -> int | None:
    """The pid in an nginx pid file, if it is an nginx of `folder`: after a crash the number may be
    anybody's, another nginx's too. One that does not show its files is known by its command line
    (`-p <folder>/`)."""
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not _is_nginx(pid):
        return None
    inside, files = f"{folder.resolve()}/", _open_files(pid)
    if files is None:
        return pid if f"-p {inside} " in _command_line(pid) else None
    return pid if any(target.startswith(inside) for target in files) else None


def stop(pids: list[int], limit: float = 5.0) -> bool:
    """Ends the given nginx processes at once; False if one is still there after `limit` seconds."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + limit
    while any(_is_nginx(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _nginx_pids() -> list[int]:
    names = (path.name for path in Path("/proc").iterdir())
    return [int(name) for name in names if name.isdigit() and _is_nginx(int(name))]


def _is_nginx(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    name, state = stat[stat.index("(") + 1 :].rsplit(") ", 1)
    return name == "nginx" and not state.startswith("Z")


def _open_files(pid: int) -> set[str] | None:
    """Paths of the files that a process has open; None if it does not show them to us."""
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
