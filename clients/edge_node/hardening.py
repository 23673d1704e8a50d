"""What keeps keys in memory from reaching a disk: no core dumps, no reading of this process by
others."""

from __future__ import annotations

import os

from shared.hardening import forbid_dumps


def no_dumps() -> None:
    """For this process and, as to core files, for whatever it becomes by exec. New files are for
    their owner alone."""
    forbid_dumps()
    os.umask(0o077)
