"""Two versions of edgetls, each run by processes with its own code: the wheel of the version before
and this repository."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHEEL = Path(__file__).with_name("edgetls-0.1.0-70d55bc-py3-none-any.whl")
ROOT = Path(__file__).parents[2]
COMMAND_SERVER = Path(__file__).with_name("command_server.py")
START_SECONDS = 150
COMMAND_SECONDS = 90
ANSWER_BYTES = 2**24


@dataclass(frozen=True)
class Finished:
    """How a command ended, and its output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """``edgetls`` of a release on one data folder; commands run one after the other."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.data = data
        self._process = process
        self._one_at_a_time = asyncio.Lock()

    async def run(self, *words: str) -> Finished:
        """Run a command, whatever its exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        async with self._one_at_a_time:
            stdin.write(json.dumps([*words, "--data", str(self.data)]).encode() + b"\n")
            answer = await asyncio.wait_for(stdout.readline(), COMMAND_SECONDS)
        return Finished(**json.loads(answer))


@dataclass(frozen=True)
class Release:
    """A version of edgetls. ``code``: the folder of its packages."""

    code: Path

    @asynccontextmanager
    async def command_line(self, data: Path) -> AsyncIterator[CommandLine]:
        """Open the command line of this release."""
        process = await self._spawn("-P", str(COMMAND_SERVER))
        try:
            yield CommandLine(process, data)
        finally:
            process.kill()
            await process.communicate()

    async def imported_files(self, *modules: str) -> list[Path]:
        """Return the files that a process of this release imports these modules from."""
        names = ", ".join(modules)
        program = f"import {names}; print(*(m.__file__ for m in ({names},)), sep='\\n')"
        process = await self._spawn("-c", program)
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
        assert process.returncode == 0, err.decode()
        return [Path(line) for line in out.decode().splitlines()]

    @asynccontextmanager
    async def running(self, data: Path, nodes: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run ``edgetls up`` on the folder: ready at enter, stopped at exit."""
        words = ("up", "--data", str(data), "--nodes", str(nodes), "--json")
        process = await self._spawn("-m", "clients.cli.main", *words)
        assert process.stdout is not None and process.stderr is not None
        # Read to its end, so that a full pipe never blocks the platform.
        notes = asyncio.create_task(process.stderr.read())
        try:
            ready = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
            assert b'"event": "ready"' in ready, f"{ready.decode()}\n{(await notes).decode()}"
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(asyncio.gather(process.wait(), notes), COMMAND_SECONDS)

    async def _spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        environment = {"PYTHONPATH": str(self.code)}
        for name in ("PATH", "HOME", "LANG"):
            if name in os.environ:
                environment[name] = os.environ[name]
        # The working folder comes first on the path of ``python -m``: it must be the code's own.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=self.code,
            env=environment,
            limit=ANSWER_BYTES,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


def unpack_old_release(folder: Path) -> Release:
    """Unpack the wheel of the version before into a new folder."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return Release(folder)


def new_release() -> Release:
    """Return the code of this repository."""
    return Release(ROOT)
