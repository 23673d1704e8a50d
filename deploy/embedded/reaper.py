"""``python -m deploy.embedded.reaper DATA``: kills the platform's processes when its supervisor was
killed.

The supervisor holds the other end of stdin. It writes ``done`` after a proper stop; the end of the
pipe without it means that it died.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

from deploy.embedded.orphans import end_orphans

DONE: Final = b"done"
RECORDED_NAME: Final = "warden"
"""Name in ``pids.json`` and of the log file. Data folders of all versions hold it: do not change
it."""


def main() -> None:
    """Wait for the supervisor's end; kill what it left unless it wrote ``done``."""
    # Why this process exists: the kernel's parent-death signal reaches the supervisor's direct
    # children alone. What they started, nginx's workers for example, would run on.
    #
    # A signal that is meant for the whole platform must not end this process before the supervisor.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.stdin.buffer.read() != DONE:
        end_orphans(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
