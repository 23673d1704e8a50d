"""A bounded pool of worker processes for the heavy steps, watched, limited, replaced.

Who sends one pair is not to wait for who sends a thousand: an account with several submissions here
is a crowd. All workers but a few (``Limits.count`` - ``Limits.per_account``) judge crowds too, at a
lower priority of the processor; the few are for the others alone.

The pool knows sealed requests and verdicts only. A worker that is stuck is killed, one that dies is
replaced, and the submission it had is tried again, three times at most. Own processes, because an
executor cannot kill one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, overload

from services.validator.sandbox.fair_queue import Busy, FairQueue
from services.validator.sandbox.sealed_judge import Job, Secrets, unjudgeable
from services.validator.sandbox.worker_main import Setup
from services.validator.sandbox.worker_process import Lost, WorkerProcess
from shared.contracts.commands import EpochKey
from shared.contracts.judging import CheckCertificate, CheckReport, JudgeSubmission, Verdict
from shared.errors import EdgetlsError

__all__ = ["Busy", "Limits", "Workers"]

_RETRY_START = (0.1, 5.0)
_CROWD_NICENESS = 10


@dataclass(frozen=True)
class Limits:
    """``count``: more than one account may have, so that none has all; ``seconds``: of work a job;
    ``starved_seconds``: of wall time where the machine gives a worker no processor; ``jobs``:
    before a worker is renewed; ``strikes``: workers that one submission may cost."""

    count: int = max(3, min(8, os.cpu_count() or 1))
    queue: int = 512
    per_account: int = 2
    seconds: float = 0.3
    starved_seconds: float = 3.0
    start_seconds: float = 30.0
    memory_bytes: int = 768 * 1024 * 1024
    jobs: int = 1000
    strikes: int = 3


@dataclass
class _Waiting:
    job: Job
    result: asyncio.Future[Verdict | CheckReport]
    strikes: int = 0

    @property
    def account(self) -> str:
        return self.job.request.account

    def undecided(self) -> None:
        if not self.result.done():
            self.result.set_exception(Busy("the validator is stopping"))


@dataclass
class Workers:
    """Start it once, then ``judge_sealed``. ``module`` is what a worker runs; ``replaced`` counts
    lost workers."""

    secrets: Secrets = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    module: str = "services.validator.sandbox.worker_main"
    replaced: int = 0

    def __post_init__(self) -> None:
        self._queue: FairQueue[_Waiting] = FairQueue(self.limits.queue, self.limits.per_account)
        self._alive: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def start(self) -> None:
        """Returns when every worker is ready; EdgetlsError when they do not start."""
        self._open = True
        few = max(0, self.limits.count - self.limits.per_account)
        starts = [self._start_one(number >= few) for number in range(self.limits.count)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, WorkerProcess):
                self._admit(outcome)
        if len(self._alive) < len(outcomes):
            await self.close()
            raise EdgetlsError(f"a worker process does not start ({self.module})")

    async def close(self) -> None:
        """Kills the workers; what waits is left undecided (Busy)."""
        self._open = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while (waiting := self._queue.take()) is not None:
            waiting.undecided()
            self._queue.done(waiting.account)
        await asyncio.gather(*(worker.stop() for worker in self._alive))
        self._alive.clear()
        self._idle.clear()

    @property
    def pids(self) -> list[int]:
        """Of the workers that are up."""
        return sorted(worker.pid for worker in self._alive)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._alive) - len(self._idle)

    @overload
    async def judge_sealed(
        self, request: JudgeSubmission, *, at: datetime, sealing: EpochKey
    ) -> Verdict: ...

    @overload
    async def judge_sealed(self, request: CheckCertificate, *, at: datetime) -> CheckReport: ...

    async def judge_sealed(
        self,
        request: JudgeSubmission | CheckCertificate,
        *,
        at: datetime,
        sealing: EpochKey | None = None,
    ) -> Verdict | CheckReport:
        """The verdict or report on a sealed request. Busy (transient) when the queue is full or the
        pool closed.

        ``at``: the moment that validity is judged at; ``sealing``: the epoch that accepted keys are
        sealed to."""
        if not self._open:
            raise Busy("the validator is stopping")
        result: asyncio.Future[Verdict | CheckReport] = asyncio.get_running_loop().create_future()
        self._queue.put(
            request.account, _Waiting(Job(request=request, at=at, sealing=sealing), result)
        )
        self._pump()
        return await result

    def _pump(self) -> None:
        """Gives work to idle workers."""
        while self._open and (found := self._match()) is not None:
            worker, waiting = found
            if waiting.result.done():  # its caller gave up
                self._queue.done(waiting.account)
                continue
            self._idle.remove(worker)
            self._spawn(self._run(worker, waiting))

    def _match(self) -> tuple[WorkerProcess, _Waiting] | None:
        """An idle worker and what it may do next."""
        for worker in sorted(self._idle, key=lambda idle: idle.for_crowds):
            waiting = self._queue.take(of_crowds=worker.for_crowds)
            if waiting is not None:
                return worker, waiting
        return None

    async def _run(self, worker: WorkerProcess, waiting: _Waiting) -> None:
        try:
            reply = await worker.ask(
                waiting.job.encode(), self.limits.seconds, self.limits.starved_seconds
            )
            answer = _parsed(waiting.job, reply)
        except Lost:
            self._strike(waiting)
            self._replace(worker)
        except asyncio.CancelledError:
            waiting.undecided()
            raise
        else:
            if not waiting.result.done():
                waiting.result.set_result(answer)
            self._release(worker)
        finally:
            self._queue.done(waiting.account)
            self._pump()

    def _strike(self, waiting: _Waiting) -> None:
        waiting.strikes += 1
        if waiting.result.done():
            return
        if waiting.strikes < self.limits.strikes:
            self._queue.put_back(waiting.account, waiting)
        else:
            waiting.result.set_result(unjudgeable(waiting.job.request))

    def _release(self, worker: WorkerProcess) -> None:
        if worker.retired:
            self._alive.discard(worker)
            self._spawn(worker.stop())
            return
        if worker in self._alive:
            self._idle.append(worker)
        if worker.jobs == self.limits.jobs:
            self._spawn(self._renew(worker))

    async def _renew(self, worker: WorkerProcess) -> None:
        """The successor is ready before the old one goes, so the pool never shrinks."""
        self._admit(await self._start_until_up(worker.for_crowds))
        worker.retired = True
        if worker in self._idle:
            self._idle.remove(worker)
            self._release(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        if worker not in self._alive:
            return
        self._alive.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self.replaced += 1
        self._spawn(self._succeed(worker))

    async def _succeed(self, worker: WorkerProcess) -> None:
        await worker.stop()
        self._admit(await self._start_until_up(worker.for_crowds))

    def _admit(self, worker: WorkerProcess) -> None:
        self._alive.add(worker)
        self._idle.append(worker)
        self._spawn(self._watch(worker))
        self._pump()

    async def _watch(self, worker: WorkerProcess) -> None:
        """An idle worker that dies is replaced at once; a busy one by whoever waits for its
        answer."""
        await worker.exited()
        if self._open and worker in self._idle:
            self._replace(worker)

    async def _start_until_up(self, for_crowds: bool) -> WorkerProcess:
        delay, longest = _RETRY_START
        while True:
            with contextlib.suppress(Lost, OSError):
                return await self._start_one(for_crowds)
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)

    async def _start_one(self, for_crowds: bool) -> WorkerProcess:
        setup = Setup(
            secrets=self.secrets,
            parent=os.getpid(),
            memory_bytes=self.limits.memory_bytes,
            # With one kind of workers only there is nobody to let go first.
            niceness=_CROWD_NICENESS
            if for_crowds and self.limits.count > self.limits.per_account
            else 0,
        )
        command = [sys.executable, "-m", self.module]
        worker = await WorkerProcess.start(command, setup.encode(), self.limits.start_seconds)
        worker.for_crowds = for_crowds
        return worker

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _parsed(job: Job, reply: bytes) -> Verdict | CheckReport:
    model = CheckReport if isinstance(job.request, CheckCertificate) else Verdict
    try:
        return model.model_validate_json(reply)
    except ValueError:
        raise Lost("its answer is none") from None
