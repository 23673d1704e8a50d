"""``python -m tests.integration.embedded.holder DATA``: a supervisor whose children have children,
for tests that kill it. It stops at SIGTERM as the platform does."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from deploy.embedded.launch import base_environment, wrap_command
from deploy.embedded.lock import DataLock
from deploy.embedded.supervisor import ProcessSpec, Supervisor
from shared.private_files import private_folder

PARENT = """\
import subprocess, sys, time
environment = {} if "bare" in sys.argv else None
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)
print("up", flush=True)
time.sleep(600)
"""


def child_spec(
    data: Path, name: str, program: str = PARENT, *arguments: str, rank: int = 0, stop: float = 5
) -> ProcessSpec:
    """Return a child that runs a Python program, by default one that has a child itself."""
    argv = wrap_command((sys.executable, "-c", program, *arguments))
    return ProcessSpec(name, argv, base_environment(), data, rank, stop_seconds=stop)


async def main(data: Path) -> None:
    """Run the supervisor until SIGTERM."""
    lock = DataLock(private_folder(data))
    lock.acquire()
    stop_requested = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop_requested.set)
    supervisor = Supervisor(data)
    await supervisor.start(child_spec(data, "one"))
    # As nginx, which overwrites its environment: only its session tells whose it is.
    await supervisor.start(child_spec(data, "two", PARENT, "bare"))
    (data / "started").touch()
    await stop_requested.wait()
    await supervisor.stop()
    lock.release()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
