"""What keeps keys in memory from reaching a disk: no core dumps, no reading of this process by others."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def no_dumps() -> None:
    """For this process and, as to core files, for whatever it becomes by exec. New files are for their owner alone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)
