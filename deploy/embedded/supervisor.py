"""Keeps child processes running: a child that dies is started again, and no child outlives the
supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.embedded import orphans
from deploy.embedded.errors import PlatformError
from deploy.embedded.launch import base_environment
from deploy.embedded.reaper import DONE, RECORDED_NAME
from shared.private_files import private_folder
from shared.retry import retry

_RESTART_DELAYS: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the restart after the first, second, ... early death in a row."""
_STEADY_SECONDS: Final = 10.0
"""A child that ran so long has not died early."""


@dataclass(frozen=True)
class ProcessSpec:
    """How to run one child.

    ``argv`` must keep its pid (exec, not fork). ``env`` is its whole environment. ``rank``:
    children stop from the highest rank to the lowest, those of one rank together. ``before`` runs
    before each start."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    rank: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    before: Callable[[], None] = lambda: None


@dataclass
class _ChildProcess:
    """A child as it runs now. ``sent_signal``: the last one that ``Supervisor.kill`` sent to this
    process, 0 when none."""

    spec: ProcessSpec
    process: asyncio.subprocess.Process
    stamp: orphans.ProcessStamp | None
    started: float
    deaths: int = 0
    early_deaths: int = 0
    sent_signal: int = 0
    watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Starts, watches and stops the children of one data folder (absolute), with logs in
    ``logs/<name>.log``.

    Use it in the main thread: the parent-death signal of a child is sent when the thread that
    started it ends."""

    def __init__(self, data: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._data = data
        self._on_line = on_line
        self._children: dict[str, _ChildProcess] = {}
        self._reaper: asyncio.subprocess.Process | None = None
        self._stopping = False

    def names(self) -> list[str]:
        """Return the children's names in the order of their first start."""
        return list(self._children)

    def pid(self, name: str) -> int | None:
        """Return the child's pid, None while it is down."""
        process = self._find_child(name).process
        return process.pid if process.returncode is None else None

    def deaths(self, name: str) -> int:
        """Return how often the child died."""
        return self._find_child(name).deaths

    def early_deaths(self, name: str) -> int:
        """Return how often in a row the child died soon after its start."""
        return self._find_child(name).early_deaths

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child, not to its children; ProcessLookupError when it is down."""
        pid = self.pid(name)
        if pid is None:
            raise ProcessLookupError(f"{name} is down")
        self._find_child(name).sent_signal = number
        os.kill(pid, number)

    def log(self, name: str) -> Path:
        """Return the file that holds the child's output."""
        return self._data / "logs" / f"{name}.log"

    async def start(self, spec: ProcessSpec) -> None:
        """Start a child and keep it running. PlatformError when its program cannot be started."""
        if self._reaper is None:
            await self._start_reaper()
        try:
            process, stamp = await self._spawn_process(spec)
        except OSError as error:
            raise PlatformError(
                f"cannot start {spec.name}: {error.strerror}: {spec.argv[0]}"
            ) from None
        child = _ChildProcess(spec, process, stamp, time.monotonic())
        self._children[spec.name] = child
        self._record_processes()
        child.watch = asyncio.create_task(self._keep_alive(child), name=f"watch {spec.name}")

    async def stop(self) -> None:
        """Stop every child, and what is left of those that died; safe to call twice."""
        self._stopping = True
        ranks = {child.spec.rank for child in self._children.values()}
        for rank in sorted(ranks, reverse=True):
            of_rank = [child for child in self._children.values() if child.spec.rank == rank]
            await asyncio.gather(*(self._stop_child(child) for child in of_rank))
        self._children.clear()
        if self._reaper is not None:
            with suppress(ConnectionError):
                await self._reaper.communicate(DONE)
            self._reaper = None
        self._record_processes()
        orphans.end_orphans(self._data)

    async def _spawn_process(
        self, spec: ProcessSpec
    ) -> tuple[asyncio.subprocess.Process, orphans.ProcessStamp | None]:
        descriptor = self._open_log(spec.name)
        try:
            spec.before()
            # A session of its own: all that the child starts can be found by it (orphans.py).
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env={**spec.env, orphans.MARK: str(self._data)},
                cwd=spec.cwd,
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
            )
        finally:
            os.close(descriptor)
        return process, orphans.read_stamp(process.pid)

    async def _keep_alive(self, child: _ChildProcess) -> None:
        """Start the child again after each death, until the supervisor stops."""
        while True:
            code = await child.process.wait()
            if self._stopping:
                return
            died_early = time.monotonic() - child.started < _STEADY_SECONDS
            # A death by a signal of kill() was wanted: the restart is immediate, and the start of
            # the platform does not give up because of it.
            was_killed = code == -child.sent_signal
            child.deaths += 1
            if died_early and not was_killed:
                child.early_deaths += 1
            else:
                child.early_deaths = 1
            child.sent_signal = 0
            self._on_line(f"{child.spec.name} {_describe_exit(code)}, is started again")
            if child.stamp is not None:
                orphans.end_session(child.stamp)
            delay = min(child.early_deaths, len(_RESTART_DELAYS)) - 1
            await asyncio.sleep(_RESTART_DELAYS[delay])
            await self._restart(child)

    async def _restart(self, child: _ChildProcess) -> None:
        """Start the child again, until that works: a full process table, for example, passes."""

        def report_fault(error: Exception) -> None:
            self._on_line(f"{child.spec.name} cannot be started again: {error}")

        child.process, child.stamp = await retry(
            lambda: self._spawn_process(child.spec),
            retry_on=lambda error: isinstance(error, OSError),
            on_fault=report_fault,
            first_delay=_RESTART_DELAYS[-1],
            longest_delay=_RESTART_DELAYS[-1],
        )
        child.started = time.monotonic()
        self._record_processes()

    async def _stop_child(self, child: _ChildProcess) -> None:
        if child.watch is not None:
            child.watch.cancel()
            with suppress(asyncio.CancelledError):
                await child.watch
        process = child.process
        spec = child.spec
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(spec.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), spec.stop_seconds)
            except TimeoutError:
                self._on_line(f"{spec.name} did not stop in {spec.stop_seconds:g} s and is killed")
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if child.stamp is not None:
            orphans.end_session(child.stamp)

    async def _start_reaper(self) -> None:
        descriptor = self._open_log(RECORDED_NAME)
        try:
            self._reaper = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "deploy.embedded.reaper",
                str(self._data),
                stdin=asyncio.subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                env=base_environment(),
                cwd=self._data,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._record_processes()

    def _open_log(self, name: str) -> int:
        private_folder(self._data / "logs")
        return os.open(self.log(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _record_processes(self) -> None:
        stamps: dict[str, orphans.ProcessStamp] = {}
        for name, child in self._children.items():
            if child.stamp is not None:
                stamps[name] = child.stamp
        if self._reaper is not None and (stamp := orphans.read_stamp(self._reaper.pid)):
            stamps[RECORDED_NAME] = stamp
        orphans.record_processes(self._data, stamps)

    def _find_child(self, name: str) -> _ChildProcess:
        try:
            return self._children[name]
        except KeyError:
            names = ", ".join(self._children)
            raise PlatformError(f"no process is called {name}: there are {names}") from None


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
