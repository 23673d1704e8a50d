"""Keeps child processes running: whatever dies is started again, and nothing outlives the
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
from deploy.embedded.launch import wrapped
from deploy.embedded.reaper import DONE
from shared.private_files import private_folder

_BACKOFF: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_SECONDS: Final = 10.0
"""After so long a life, a death counts as the first again."""


@dataclass(frozen=True)
class Spec:
    """One child. ``argv`` must keep its pid (exec, not fork); ``env`` is all it gets; ``before``
    each start.

    ``rank``: children are stopped from the highest to the lowest, those of one rank together."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    rank: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    before: Callable[[], None] = lambda: None


@dataclass
class _Child:
    spec: Spec
    process: asyncio.subprocess.Process
    stamp: orphans.Stamp | None
    started: float
    deaths: int = 0
    early_deaths: int = 0
    asked: int = 0
    watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """``data``: absolute; logs go to its ``logs/<name>.log``. Start it from the main thread: the
    parent-death signal of a child fires when the thread that made it ends."""

    def __init__(self, data: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._data, self._on_line = data, on_line
        self._children: dict[str, _Child] = {}
        self._warden: asyncio.subprocess.Process | None = None
        self._stopping = False

    def names(self) -> list[str]:
        """In the order of their start."""
        return list(self._children)

    def pid(self, name: str) -> int | None:
        """None while it is down."""
        process = self._child(name).process
        return process.pid if process.returncode is None else None

    def deaths(self, name: str) -> int:
        return self._child(name).deaths

    def early_deaths(self, name: str) -> int:
        """How often in a row it died young."""
        return self._child(name).early_deaths

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the child alone; ProcessLookupError when it is down."""
        pid = self.pid(name)
        if pid is None:
            raise ProcessLookupError(f"{name} is down")
        self._child(name).asked = number
        os.kill(pid, number)

    def log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    async def start(self, spec: Spec) -> None:
        """PlatformError when its program cannot be started at all."""
        if self._warden is None:
            await self._start_warden()
        try:
            child = _Child(spec, *await self._spawn(spec), time.monotonic())
        except OSError as error:
            raise PlatformError(
                f"cannot start {spec.name}: {error.strerror}: {spec.argv[0]}"
            ) from None
        self._children[spec.name] = child
        self._record()
        child.watch = asyncio.create_task(self._keep_alive(child), name=f"watch {spec.name}")

    async def stop(self) -> None:
        """Stops every child, and what is left of those that had died; safe to call twice."""
        self._stopping = True
        for rank in sorted({child.spec.rank for child in self._children.values()}, reverse=True):
            of_rank = [child for child in self._children.values() if child.spec.rank == rank]
            await asyncio.gather(*(self._end(child) for child in of_rank))
        self._children.clear()
        if self._warden is not None:
            with suppress(ConnectionError):
                await self._warden.communicate(DONE)
            self._warden = None
        self._record()
        orphans.end(self._data)

    async def _spawn(self, spec: Spec) -> tuple[asyncio.subprocess.Process, orphans.Stamp | None]:
        descriptor = self._open_log(spec.name)
        try:
            spec.before()
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
        return process, orphans.stamp(process.pid)

    async def _keep_alive(self, child: _Child) -> None:
        while True:
            code = await child.process.wait()
            if self._stopping:
                return
            young = time.monotonic() - child.started < _STEADY_SECONDS
            child.deaths += 1
            # A death that kill() brought says nothing against the process: it is started again at
            # once.
            child.early_deaths = child.early_deaths + 1 if young and code != -child.asked else 1
            child.asked = 0
            self._on_line(f"{child.spec.name} {_how(code)}, is started again")
            if child.stamp is not None:
                orphans.end_session(child.stamp)
            await self._again(child)

    async def _again(self, child: _Child) -> None:
        """Tries until it is started: a full process table, say, passes."""
        delay = _BACKOFF[min(child.early_deaths - 1, len(_BACKOFF) - 1)]
        while True:
            await asyncio.sleep(delay)
            try:
                child.process, child.stamp = await self._spawn(child.spec)
            except (OSError, TimeoutError) as error:
                self._on_line(f"{child.spec.name} cannot be started again: {error}")
                delay = _BACKOFF[-1]
                continue
            child.started = time.monotonic()
            self._record()
            return

    async def _end(self, child: _Child) -> None:
        if child.watch is not None:
            child.watch.cancel()
            with suppress(asyncio.CancelledError):
                await child.watch
        process, spec = child.process, child.spec
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

    async def _start_warden(self) -> None:
        descriptor = self._open_log("warden")
        try:
            self._warden = await asyncio.create_subprocess_exec(
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
        self._record()

    def _open_log(self, name: str) -> int:
        private_folder(self._data / "logs")
        return os.open(self.log(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _record(self) -> None:
        stamps = {
            name: child.stamp for name, child in self._children.items() if child.stamp is not None
        }
        if self._warden is not None and (warden := orphans.stamp(self._warden.pid)):
            stamps["warden"] = warden
        orphans.record(self._data, stamps)

    def _child(self, name: str) -> _Child:
        try:
            return self._children[name]
        except KeyError:
            raise PlatformError(
                f"no process is called {name}: there are {', '.join(self._children)}"
            ) from None


def base_environment() -> dict[str, str]:
    """What a child inherits of ours; our own packages are found wherever it is started."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ours = str(Path(__file__).parents[2])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH")))),
    }


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line of one of our own modules."""
    return wrapped((sys.executable, "-m", module, *arguments))


def _how(code: int) -> str:
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    )
