"""One worker process, seen from its parent: frames in and out, and limits on its time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from services.validator.sandbox.frames import FRAME_LENGTH, MAX_FRAME_BYTES, encode_frame
from services.validator.sandbox.process_limits import read_cpu_seconds

_LOOK_EVERY_SECONDS = 0.05


class WorkerLost(Exception):
    """The worker died, or it was stuck and was killed."""


class WorkerProcess:
    """A running worker; compared by identity.

    ``jobs_done``: the jobs it has answered. ``retired``: it gets no more jobs. ``takes_bulk``: it
    judges for accounts with several submissions too (see ``pool``).
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        sink: asyncio.StreamWriter,
        source: asyncio.StreamReader,
    ) -> None:
        self._process = process
        self._input = sink
        self._output = source
        self.jobs_done = 0
        self.retired = False
        self.takes_bulk = True

    @classmethod
    async def start(cls, command: Sequence[str], setup: bytes, seconds: float) -> WorkerProcess:
        """Start a worker and wait until it is ready; raises WorkerLost after ``seconds``.

        ``setup`` holds secrets, so it goes through the pipe and not through the arguments.
        """
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        if process.stdin is None or process.stdout is None:
            raise WorkerLost("it has no pipes")
        worker = cls(process, process.stdin, process.stdout)
        try:
            async with asyncio.timeout(seconds):
                await worker._write_frame(setup)
                await worker._read_frame()
        except BaseException as fault:
            await worker.kill()
            if isinstance(fault, TimeoutError):
                raise WorkerLost("it was not ready in time") from None
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_until_exit(self) -> None:
        await self._process.wait()

    async def kill(self) -> None:
        """Kill the process and wait for its end; harmless when it has ended."""
        self._send_kill()
        await self._process.wait()
        self._input.close()

    async def run_job(self, body: bytes, cpu_seconds: float, wall_seconds: float) -> bytes:
        """Send a job and return its answer.

        Raises WorkerLost, and kills the worker, when it has worked for ``cpu_seconds`` or has not
        answered for ``wall_seconds``.
        """
        # Two limits, because one is not enough. On a loaded machine a worker may get no processor
        # for seconds, so wall time alone would kill workers that do nothing wrong. A worker that
        # sleeps uses no processor, so processor time alone would wait for ever.
        #
        # The waiting time is added up from the timeouts that were asked for, not read from a clock:
        # while this process itself gets no processor, no worker can hand in its answer, and that
        # time must not count against it.
        waited = 0.0
        cpu_before = read_cpu_seconds(self.pid)
        answer = asyncio.ensure_future(self._exchange(body))
        try:
            timeout = cpu_seconds
            while not (await asyncio.wait({answer}, timeout=timeout))[0]:
                waited += timeout
                timeout = _LOOK_EVERY_SECONDS
                worked = read_cpu_seconds(self.pid) - cpu_before
                # The kernel counts in ticks of 10 ms, and to send the answer takes a moment.
                if worked >= cpu_seconds * 0.9 or waited >= wall_seconds:
                    raise WorkerLost("it was stuck")
            self.jobs_done += 1
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                self._send_kill()

    def _send_kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _exchange(self, body: bytes) -> bytes:
        await self._write_frame(body)
        return await self._read_frame()

    async def _write_frame(self, body: bytes) -> None:
        try:
            self._input.write(encode_frame(body))
            await self._input.drain()
        except (ConnectionError, RuntimeError):
            raise WorkerLost("it is gone") from None

    async def _read_frame(self) -> bytes:
        try:
            (length,) = FRAME_LENGTH.unpack(await self._output.readexactly(FRAME_LENGTH.size))
            if length > MAX_FRAME_BYTES:
                raise WorkerLost("it sent no frame")
            return await self._output.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerLost("it is gone") from None
