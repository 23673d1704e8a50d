"""Stopping the platform of a data folder from another process."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError
from deploy.embedded.lock import lock_holder
from deploy.embedded.orphans import end_orphans, read_stamp

_POLL_SECONDS: Final = 0.05


def stop_platform(data: Path, limit: float = 60.0) -> str:
    """Stop the platform of ``data`` and return one line that says what was done.

    Also ends what a supervisor left that died. After ``limit`` seconds the supervisor is killed
    with its processes. PlatformError when there is no such folder."""
    data = data.resolve()
    if not data.is_dir():
        raise PlatformError(f"there is no data folder {data}")
    pid = lock_holder(data)
    if pid is None:
        ended = end_orphans(data)
        if not ended:
            return "nothing was running"
        return f"ended {len(ended)} processes of a supervisor that died"
    # The stamp tells the supervisor from a later process with its number.
    supervisor = read_stamp(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + limit
    while supervisor is not None and read_stamp(pid) == supervisor:
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            end_orphans(data)
            return (
                f"the supervisor {pid} did not stop in {limit:g} s and was killed with its "
                "processes"
            )
        time.sleep(_POLL_SECONDS)
    end_orphans(data)
    return f"stopped (supervisor {pid})"
