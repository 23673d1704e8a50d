"""Start, watch, kill and stop one process of our own programs, of the broker or of PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from deploy.embedded import orphans
from deploy.embedded.launch import base_environment, python_command
from deploy.embedded.ports import HOST
from deploy.embedded.ready import service_fault
from deploy.embedded.supervisor import ProcessSpec
from shared.private_files import private_folder
from tests.support.waiting import until


def program_spec(
    name: str, module: str, *arguments: str, settings: Mapping[str, object], folder: Path
) -> ProcessSpec:
    """Describe a process of ``python -m module``.

    ``settings`` are its environment variables without the prefix ``EDGETLS_``; it inherits nothing
    else of ours but PATH, HOME, LANG and PYTHONPATH.
    """
    environment = base_environment()
    for key, value in settings.items():
        environment[f"EDGETLS_{key}"] = str(value)
    return ProcessSpec(name, python_command(module, *arguments), environment, folder)


class ServiceProcess:
    """A process that a test starts and ends.

    With ``revived`` it is started again whenever it dies, until ``stop``. Its output is appended to
    ``<folder>/logs/<name>.log``. The kernel ends it when the test run dies.
    """

    def __init__(
        self, spec: ProcessSpec, folder: Path, *, health_port: int = 0, revived: bool = False
    ) -> None:
        self.spec = spec
        self.log_file = folder / "logs" / f"{spec.name}.log"
        self.health_port = health_port
        self.deaths = 0
        """Ends that ``stop`` did not ask for."""
        self._revived = revived
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None
        self._stamps: list[orphans.ProcessStamp] = []
        self._watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """None while it is down, and from a SIGKILL on, though its end may be noticed later."""
        process = self._process
        if process is None or process.returncode is not None or process is self._killed:
            return None
        return process.pid

    async def start(self) -> None:
        """Start it; return at once."""
        await self._spawn()
        self._watch = asyncio.create_task(self._watch_deaths(), name=f"watch {self.name}")

    async def until_ready(self) -> None:
        """Wait until ``/readyz`` answers 200; AssertionError with the end of its log otherwise."""

        async def is_ready() -> bool:
            if not self._revived and self.pid is None:
                raise AssertionError(f"{self.name} ended: {self.log_tail()}")
            return await service_fault(HOST, self.health_port) is None

        try:
            await until(is_ready, f"{self.name} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    async def missing_conditions(self) -> dict[str, str] | None:
        """Return what ``/readyz`` lacks, by condition; None when it does not answer."""
        try:
            body = await asyncio.to_thread(_read_url, f"http://{HOST}:{self.health_port}/readyz")
        except OSError:
            return None
        missing: dict[str, str] = json.loads(body)["missing"]
        return missing

    async def is_ready(self) -> bool:
        """Tell whether it answers that it lacks nothing."""
        return await self.missing_conditions() == {}

    async def is_unready(self) -> bool:
        """Tell whether it answers that it lacks something."""
        return bool(await self.missing_conditions())

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone; ProcessLookupError while it is down."""
        pid = self.pid
        if pid is None:
            raise ProcessLookupError(f"{self.name} is down")
        os.kill(pid, number)

    def kill(self) -> None:
        """Send SIGKILL; ProcessLookupError while it is down."""
        self.send_signal(signal.SIGKILL)
        self._killed = self._process

    async def kill_and_wait(self) -> None:
        """Send SIGKILL and return when it is dead. Its children live on, as after a crash."""
        process = self._running()
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def wait_for_end(self) -> int:
        """Return its exit code once it ended by itself."""
        process = self._running()
        await until(lambda: process.returncode is not None, f"{self.name} ends")
        return process.returncode or 0

    async def stop(self) -> None:
        """End it, and what it or its predecessors left behind. Safe to call twice.

        It gets its stop signal first, and SIGKILL when it does not end within its time.
        """
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        process = self._process
        self._process = None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(self.spec.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.spec.stop_seconds)
            except TimeoutError:
                process.kill()
                await process.wait()
        for stamp in self._stamps:
            orphans.end_session(stamp)

    async def restart(self) -> None:
        """Stop it and start it again; return at once."""
        await self.stop()
        await self.start()

    def log_tail(self, size: int = 2000) -> str:
        """Return the last ``size`` characters that it wrote."""
        return self.log_file.read_text(errors="replace")[-size:]

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ProcessLookupError(f"{self.name} was not started")
        return self._process

    async def _spawn(self) -> None:
        private_folder(self.log_file.parent)
        self.spec.before()
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                env=self.spec.env,
                cwd=self.spec.cwd,
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stamp = orphans.read_stamp(self._process.pid)
        if stamp is not None:
            self._stamps.append(stamp)

    async def _watch_deaths(self) -> None:
        while True:
            await self._running().wait()
            self.deaths += 1
            if not self._revived:
                return
            await self._spawn()


def _read_url(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()
