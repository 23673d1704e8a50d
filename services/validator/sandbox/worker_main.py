"""``python -m services.validator.sandbox.worker_main``: a worker process.

Only here is a customer's key ever in clear. A worker reads a WorkerSetup frame from standard input
and writes an empty frame when it is ready. Then it reads WorkerJob frames and answers each with a
Verdict or a CheckReport, all as JSON, until the end of input.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field

from services.validator.sandbox.frames import read_frame, write_frame
from services.validator.sandbox.process_limits import (
    allow_cpu_seconds,
    die_with_parent,
    limit_memory,
)
from services.validator.sandbox.sealed_judge import (
    SealedJudge,
    WorkerJob,
    WorkerSecrets,
    refuse_unjudgeable,
)
from shared.contracts.base import Contract
from shared.contracts.judging import CheckReport, Verdict
from shared.crypto.sealing import PrivateKey
from shared.hardening import forbid_dumps

JOB_CPU_SECONDS = 2  # the parent gives up long before (PoolLimits.job_cpu_seconds)

AnswerJob = Callable[[WorkerJob], Verdict | CheckReport]


class WorkerSetup(Contract):
    """The first frame.

    ``parent``: the pid that this process must not outlive. ``memory_bytes``: the limit of its
    address space. ``niceness``: by how much its priority is lowered (nice(2)).
    """

    secrets: Annotated[WorkerSecrets, Field(repr=False)]
    parent: int
    memory_bytes: int
    niceness: int = 0


def main(wrap: Callable[[AnswerJob], AnswerJob] = lambda answer: answer) -> None:
    """Run the worker until the end of input.

    ``wrap`` is applied to the judge, for tests that need a worker to fail.
    """
    forbid_dumps()
    sys.excepthook = lambda kind, fault, trace: _report_fault(fault)
    # A signal to the whole group is for the parent, which lets running jobs finish first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    source = sys.stdin.buffer
    sink = _reserve_standard_output()
    setup = WorkerSetup.model_validate_json(read_frame(source) or b"")
    die_with_parent(setup.parent)
    limit_memory(setup.memory_bytes)
    os.nice(setup.niceness)
    judge = SealedJudge(setup.secrets)
    _warm_up()
    gc.collect()
    # The trust roots stay for good: to collect through them again and again takes a twentieth of a
    # P-256 verdict.
    gc.freeze()
    write_frame(sink, b"")
    serve_jobs(source, sink, wrap(judge.answer_job))


def serve_jobs(source: IO[bytes], sink: IO[bytes], answer: AnswerJob) -> None:
    """Answer jobs until the end of input."""
    while (frame := read_frame(source)) is not None:
        allow_cpu_seconds(JOB_CPU_SECONDS)
        job = WorkerJob.model_validate_json(frame)
        try:
            reply = answer(job)
        except MemoryError:
            os._exit(1)
        except Exception as fault:
            # A fault of ours is a refusal, and is logged without any content.
            _report_fault(fault)
            reply = refuse_unjudgeable(job.request)
        write_frame(sink, reply.encode())


def _reserve_standard_output() -> IO[bytes]:
    """Keep standard output for frames alone; whatever prints goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink


def _warm_up() -> None:
    """Use HPKE once: the first use loads its algorithms, and the first job must not wait for it."""
    key = PrivateKey.generate()
    key.open(key.public().seal(b"", b""), b"")


def _report_fault(fault: BaseException) -> None:
    """Write the kind and place of a fault; its text may hold what was submitted."""
    trace = fault.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = ""
    if trace:
        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    sys.stderr.write(f"validator worker: {type(fault).__name__}{place}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
