"""``python -m deploy.embedded.reaper DATA``: ends the platform's processes when its supervisor was
killed.

The supervisor holds the other end of stdin. It writes ``done`` after a proper stop; the end of the
pipe without it means that it died. The kernel's parent-death signal reaches the direct children
alone: what they started, nginx's workers for one, is ended here.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from deploy.embedded.orphans import end

DONE = b"done"


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.stdin.buffer.read() != DONE:
        end(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
