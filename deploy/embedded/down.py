"""Stops the platform of a data folder from outside."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from deploy.embedded import orphans
from deploy.embedded.errors import PlatformError
from deploy.embedded.lock import holder


def down(data: Path, limit: float = 60.0) -> str:
    """One line of what was done. Ends leftovers of a supervisor that died too; PlatformError
    without a data folder.

    Past ``limit`` seconds the supervisor is killed, and its processes with it."""
    data = data.resolve()
    if not data.is_dir():
        raise PlatformError(f"there is no data folder {data}")
    pid = holder(data)
    if pid is None:
        ended = orphans.end(data)
        return (
            f"ended {len(ended)} processes of a supervisor that died"
            if ended
            else "nothing was running"
        )
    supervisor = orphans.stamp(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + limit
    while supervisor is not None and orphans.stamp(pid) == supervisor:
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            orphans.end(data)
            return (
                f"the supervisor {pid} did not stop in {limit:g} s and was killed with its "
                "processes"
            )
        time.sleep(0.05)
    orphans.end(data)
    return f"stopped (supervisor {pid})"
