"""Measure what processes spend, which does not depend on how busy the machine is."""

from __future__ import annotations

import os
from pathlib import Path


def processor_seconds(pid: int) -> float:
    """Return the user and system time of a process and of its children that have ended."""
    # proc(5): utime, stime, cutime and cstime are the fields 14 to 17, counted from the pid. The
    # name in brackets, which may hold any character, is left out, and with it two fields.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
