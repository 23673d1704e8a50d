"""``python -m tests.integration.embedded.holder DATA``: a supervisor with children that have
children, for tests that kill it. Stops at SIGTERM as the platform does."""

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


def spec(
    data: Path, name: str, program: str = PARENT, *arguments: str, rank: int = 0, stop: float = 5
) -> ProcessSpec:
    argv = wrap_command((sys.executable, "-c", program, *arguments))
    return ProcessSpec(name, argv, base_environment(), data, rank, stop_seconds=stop)


async def main(data: Path) -> None:
    lock = DataLock(private_folder(data))
    lock.acquire()
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    supervisor = Supervisor(data)
    await supervisor.start(spec(data, "one"))
    # Like nginx, which wipes its environment: it is known by its session alone.
    await supervisor.start(spec(data, "two", PARENT, "bare"))
    (data / "started").touch()
    await asked.wait()
    await supervisor.stop()
    lock.release()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
