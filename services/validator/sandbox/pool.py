"""A pool of worker processes, limited in number, queue, time and memory.

The pool sees sealed requests and verdicts only. A worker that is stuck is killed, one that dies is
replaced, and the submission it had is tried again, three times at most. Workers are processes of
our own, because an executor cannot kill one.
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

from services.validator.sandbox.fair_queue import FairQueue, ValidatorBusy
from services.validator.sandbox.sealed_judge import WorkerJob, WorkerSecrets, refuse_unjudgeable
from services.validator.sandbox.worker_main import WorkerSetup
from services.validator.sandbox.worker_process import WorkerLost, WorkerProcess
from shared.contracts.commands import EpochKey
from shared.contracts.judging import CheckCertificate, CheckReport, JudgeSubmission, Verdict
from shared.errors import EdgetlsError

__all__ = ["PoolLimits", "ValidatorBusy", "WorkerPool"]

_FIRST_RETRY_SECONDS = 0.1
_LAST_RETRY_SECONDS = 5.0
_BULK_NICENESS = 10


@dataclass(frozen=True)
class PoolLimits:
    """The limits of a pool.

    ``workers``: more than ``workers_per_account``, so that no account can have them all.
    ``job_cpu_seconds``: processor time for one job. ``job_wall_seconds``: wall time for one job,
    on a machine that gives a worker no processor. ``jobs_per_worker``: after so many it is renewed.
    ``attempts``: workers that one submission may cost.
    """

    workers: int = max(3, min(8, os.cpu_count() or 1))
    queue_size: int = 512
    workers_per_account: int = 2
    job_cpu_seconds: float = 0.3
    job_wall_seconds: float = 3.0
    start_seconds: float = 30.0
    memory_bytes: int = 768 * 1024 * 1024
    jobs_per_worker: int = 1000
    attempts: int = 3


@dataclass
class _QueuedJob:
    job: WorkerJob
    result: asyncio.Future[Verdict | CheckReport]
    lost_workers: int = 0

    @property
    def account(self) -> str:
        return self.job.request.account

    def leave_undecided(self) -> None:
        if not self.result.done():
            self.result.set_exception(ValidatorBusy("the validator is stopping"))


@dataclass
class WorkerPool:
    """Call ``start`` once, then ``judge_sealed``.

    ``module`` is the program of a worker. ``lost_workers`` counts those that died or were killed.
    """

    # An account that sends one pair must not wait for one that sends a thousand. An account with
    # several submissions here, waiting or running, is called bulk:
    # - ``workers_per_account`` workers take any job, bulk included, at a lower priority of the
    #   processor; the others are reserved for accounts with a single submission.
    # - Accounts take turns (FairQueue), and no account has more than ``workers_per_account`` jobs
    #   running, so several bulk accounts together fill only the workers that take bulk.
    # - A reserved worker is offered a job first, so workers that take bulk stay free for bulk.
    #
    # Life of a worker: _start_one -> _add_worker -> idle -> _run_job -> idle ... It leaves by
    # _replace_worker (lost: the old one ends before its successor starts) or by _renew_worker
    # (after its jobs: the successor is ready first, so the pool never shrinks). ``_alive`` holds
    # every worker in use, ``_idle`` those of them without a job; each change of either calls
    # _assign_jobs.

    secrets: WorkerSecrets = field(repr=False)
    limits: PoolLimits = field(default_factory=PoolLimits)
    module: str = "services.validator.sandbox.worker_main"
    lost_workers: int = 0

    def __post_init__(self) -> None:
        self._queue: FairQueue[_QueuedJob] = FairQueue(
            self.limits.queue_size, self.limits.workers_per_account
        )
        self._alive: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def start(self) -> None:
        """Start all workers and wait until they are ready; raises EdgetlsError when one is not."""
        self._open = True
        reserved = max(0, self.limits.workers - self.limits.workers_per_account)
        starts = []
        for number in range(self.limits.workers):
            starts.append(self._start_one(takes_bulk=number >= reserved))
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, WorkerProcess):
                self._add_worker(outcome)
        if len(self._alive) < len(outcomes):
            await self.close()
            raise EdgetlsError(f"a worker process does not start ({self.module})")

    async def close(self) -> None:
        """Kill the workers, and leave what waits undecided (ValidatorBusy)."""
        self._open = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while (queued := self._queue.take_next()) is not None:
            queued.leave_undecided()
            self._queue.mark_done(queued.account)
        await asyncio.gather(*(worker.kill() for worker in self._alive))
        self._alive.clear()
        self._idle.clear()

    @property
    def worker_pids(self) -> list[int]:
        """The pids of the workers in use, sorted."""
        return sorted(worker.pid for worker in self._alive)

    @property
    def waiting_jobs(self) -> int:
        return len(self._queue)

    @property
    def running_jobs(self) -> int:
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
        """Return the verdict or report on a sealed request.

        ``at``: the moment for which validity is judged. ``sealing``: the epoch to which accepted
        keys are sealed. Raises ValidatorBusy (transient) when the queue is full or the pool closed.
        """
        if not self._open:
            raise ValidatorBusy("the validator is stopping")
        result: asyncio.Future[Verdict | CheckReport] = asyncio.get_running_loop().create_future()
        job = WorkerJob(request=request, at=at, sealing=sealing)
        self._queue.put(request.account, _QueuedJob(job, result))
        self._assign_jobs()
        return await result

    def _assign_jobs(self) -> None:
        """Give jobs to idle workers, as far as there are both."""
        while self._open and (match := self._next_match()) is not None:
            worker, queued = match
            if queued.result.done():  # its caller gave up
                self._queue.mark_done(queued.account)
                continue
            self._idle.remove(worker)
            self._spawn(self._run_job(worker, queued))

    def _next_match(self) -> tuple[WorkerProcess, _QueuedJob] | None:
        """Return an idle worker and a job for it; workers reserved for single jobs come first."""
        for worker in sorted(self._idle, key=lambda idle: idle.takes_bulk):
            queued = self._queue.take_next(allow_bulk=worker.takes_bulk)
            if queued is not None:
                return worker, queued
        return None

    async def _run_job(self, worker: WorkerProcess, queued: _QueuedJob) -> None:
        try:
            reply = await worker.run_job(
                queued.job.encode(), self.limits.job_cpu_seconds, self.limits.job_wall_seconds
            )
            answer = _read_answer(queued.job, reply)
        except WorkerLost:
            self._retry_or_refuse(queued)
            self._replace_worker(worker)
        except asyncio.CancelledError:
            queued.leave_undecided()
            raise
        else:
            if not queued.result.done():
                queued.result.set_result(answer)
            self._release_worker(worker)
        finally:
            self._queue.mark_done(queued.account)
            self._assign_jobs()

    def _retry_or_refuse(self, queued: _QueuedJob) -> None:
        queued.lost_workers += 1
        if queued.result.done():
            return
        if queued.lost_workers < self.limits.attempts:
            self._queue.put_back(queued.account, queued)
        else:
            queued.result.set_result(refuse_unjudgeable(queued.job.request))

    def _release_worker(self, worker: WorkerProcess) -> None:
        if worker.retired:
            self._alive.discard(worker)
            self._spawn(worker.kill())
            return
        if worker in self._alive:
            self._idle.append(worker)
        if worker.jobs_done == self.limits.jobs_per_worker:
            self._spawn(self._renew_worker(worker))

    async def _renew_worker(self, worker: WorkerProcess) -> None:
        """Start a successor, then retire the worker once it is idle."""
        self._add_worker(await self._start_until_ready(worker.takes_bulk))
        worker.retired = True
        if worker in self._idle:
            self._idle.remove(worker)
            self._release_worker(worker)

    def _replace_worker(self, worker: WorkerProcess) -> None:
        """Remove a lost worker and start a successor."""
        if worker not in self._alive:
            return
        self._alive.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self.lost_workers += 1
        self._spawn(self._start_successor(worker))

    async def _start_successor(self, lost: WorkerProcess) -> None:
        await lost.kill()
        self._add_worker(await self._start_until_ready(lost.takes_bulk))

    def _add_worker(self, worker: WorkerProcess) -> None:
        self._alive.add(worker)
        self._idle.append(worker)
        self._spawn(self._watch_exit(worker))
        self._assign_jobs()

    async def _watch_exit(self, worker: WorkerProcess) -> None:
        """Replace an idle worker that dies. A busy one is replaced by its ``_run_job``."""
        await worker.wait_until_exit()
        if self._open and worker in self._idle:
            self._replace_worker(worker)

    async def _start_until_ready(self, takes_bulk: bool) -> WorkerProcess:
        delay = _FIRST_RETRY_SECONDS
        while True:
            with contextlib.suppress(WorkerLost, OSError):
                return await self._start_one(takes_bulk)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_SECONDS)

    async def _start_one(self, takes_bulk: bool) -> WorkerProcess:
        niceness = 0
        if takes_bulk and self.limits.workers > self.limits.workers_per_account:
            # Only where there are reserved workers that are to go first.
            niceness = _BULK_NICENESS
        setup = WorkerSetup(
            secrets=self.secrets,
            parent=os.getpid(),
            memory_bytes=self.limits.memory_bytes,
            niceness=niceness,
        )
        command = [sys.executable, "-m", self.module]
        worker = await WorkerProcess.start(command, setup.encode(), self.limits.start_seconds)
        worker.takes_bulk = takes_bulk
        return worker

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _read_answer(job: WorkerJob, reply: bytes) -> Verdict | CheckReport:
    model = CheckReport if isinstance(job.request, CheckCertificate) else Verdict
    try:
        return model.model_validate_json(reply)
    except ValueError:
        raise WorkerLost("its answer is none") from None
