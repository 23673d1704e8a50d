"""One worker process, seen from its parent: frames out and in, with an end to the patience."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from services.validator.sandbox.worker_main import LENGTH

_MAX_FRAME = 16 * 1024 * 1024
_LOOK_EVERY = 0.05


class Lost(Exception):
    """The worker died, or was stuck and was killed."""


class WorkerProcess:
    """``jobs``: answered so far; ``retired``: it gets no more; ``for_crowds``: see Workers.
    Compared by identity."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        sink: asyncio.StreamWriter,
        source: asyncio.StreamReader,
    ) -> None:
        self._process, self._input, self._output = process, sink, source
        self.jobs = 0
        self.retired = False
        self.for_crowds = True

    @classmethod
    async def start(cls, command: Sequence[str], setup: bytes, seconds: float) -> WorkerProcess:
        """Ready for its first job; Lost when it is not within ``seconds``. Secrets go through the
        pipe only."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        if process.stdin is None or process.stdout is None:
            raise Lost("it has no pipes")
        worker = cls(process, process.stdin, process.stdout)
        try:
            async with asyncio.timeout(seconds):
                await worker._write(setup)
                await worker._read()
        except BaseException as fault:
            await worker.stop()
            if isinstance(fault, TimeoutError):
                raise Lost("it was not ready in time") from None
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def exited(self) -> None:
        await self._process.wait()

    async def stop(self) -> None:
        """Kills it; idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._input.close()

    async def ask(self, body: bytes, seconds: float, starved_seconds: float) -> bytes:
        """The answer. Lost, and the worker killed, when it worked for ``seconds`` or said nothing
        for
        ``starved_seconds``: on a loaded machine wall time alone would condemn the innocent."""
        waited, used = 0.0, processor_seconds(self.pid)
        answer = asyncio.ensure_future(self._exchange(body))
        try:
            patience = seconds
            while not (await asyncio.wait({answer}, timeout=patience))[0]:
                # as asked for: while this process itself is starved, no worker can answer it
                waited += patience
                patience = _LOOK_EVERY
                worked = processor_seconds(self.pid) - used
                # Ticks of the clock are 10 ms, and the answer itself takes a moment.
                if worked >= seconds * 0.9 or waited >= starved_seconds:
                    raise Lost("it was stuck")
            self.jobs += 1
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()

    async def _exchange(self, body: bytes) -> bytes:
        await self._write(body)
        return await self._read()

    async def _write(self, body: bytes) -> None:
        try:
            self._input.write(LENGTH.pack(len(body)) + body)
            await self._input.drain()
        except (ConnectionError, RuntimeError):
            raise Lost("it is gone") from None

    async def _read(self) -> bytes:
        try:
            (length,) = LENGTH.unpack(await self._output.readexactly(LENGTH.size))
            if length > _MAX_FRAME:
                raise Lost("it sent no frame")
            return await self._output.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Lost("it is gone") from None


def processor_seconds(pid: int) -> float:
    """User and system time of a process (proc(5)); 0 when it is gone or not Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
