"""Limits of a process: its processor time, its memory, and its life after its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from math import ceil
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def read_cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process (proc(5)).

    0 when the process is gone or the system is not Linux.
    """
    try:
        # The second field, the program's name, may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def allow_cpu_seconds(seconds: int) -> None:
    """Allow this process ``seconds`` more of processor time (RLIMIT_CPU).

    After that the kernel ends it, even when no parent watches.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    limit = ceil(time.process_time()) + seconds
    if hard_limit != resource.RLIM_INFINITY:
        limit = min(limit, hard_limit)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard_limit))


def limit_memory(size: int) -> None:
    """Limit the address space of this process to ``size`` bytes (RLIMIT_AS)."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; exit if it is dead already."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)
