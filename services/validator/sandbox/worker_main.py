"""``python -m services.validator.sandbox.worker_main``: a worker process. Only here is a customer's
key ever in clear.

It speaks frames (4 bytes of length, big endian, then JSON) on its standard input and output: a
Setup in, an empty frame out when it is ready, then a Job in and a Verdict or CheckReport out. End
of input ends it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field

from services.validator.sandbox.sealed_judge import Job, SealedJudge, Secrets, unjudgeable
from shared.contracts.base import Contract
from shared.contracts.judging import CheckReport, Verdict
from shared.crypto.sealing import PrivateKey
from shared.hardening import forbid_dumps

LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
JOB_SECONDS = 2  # the parent loses its patience long before (Limits.seconds)

Answer = Callable[[Job], Verdict | CheckReport]


class Setup(Contract):
    """The first frame. ``parent``: the pid that this process must not outlive; ``memory_bytes``:
    RLIMIT_AS;
    ``niceness``: how far others go before it (nice(2))."""

    secrets: Annotated[Secrets, Field(repr=False)]
    parent: int
    memory_bytes: int
    niceness: int = 0


def main(wrap: Callable[[Answer], Answer] = lambda answer: answer) -> None:
    """``wrap`` is put around the judging (for tests that need a worker to fail)."""
    _forbid_dumps()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # A stop of the whole group is the parent's: it drains first.
        signal.signal(number, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, _claim_output()
    setup = Setup.model_validate_json(read_frame(source) or b"")
    die_with(setup.parent)
    resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    os.nice(setup.niceness)
    judge = SealedJudge(setup.secrets)
    _warm_up()
    gc.collect()
    # the roots stay: looking through them again and again costs a twentieth of a P-256 verdict
    gc.freeze()
    write_frame(sink, b"")
    serve(source, sink, wrap(judge.answer))


def serve(source: IO[bytes], sink: IO[bytes], answer: Answer) -> None:
    """Answers jobs until the end of input."""
    while (frame := read_frame(source)) is not None:
        allow_processor(JOB_SECONDS)
        job = Job.model_validate_json(frame)
        try:
            reply = answer(job)
        except MemoryError:
            os._exit(1)
        except (
            Exception
        ) as fault:  # A fault of ours is a refusal, told in the log without any content.
            _report(fault)
            reply = unjudgeable(job.request)
        write_frame(sink, reply.encode())


def allow_processor(seconds: int) -> None:
    """So much more of the processor's time (RLIMIT_CPU); then the kernel ends the process, whoever
    else looks."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = ceil(time.process_time()) + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
    )


def read_frame(source: IO[bytes]) -> bytes | None:
    """None at the end of input."""
    head = _exactly(source, LENGTH.size)
    return None if head is None else _exactly(source, LENGTH.unpack(head)[0])


def _exactly(source: IO[bytes], length: int) -> bytes | None:
    """Read until it is all there: an unbuffered pipe gives at most the 64 KiB that it holds."""
    parts = []
    while length and (part := source.read(length)):
        parts.append(part)
        length -= len(part)
    return None if length else b"".join(parts)


def write_frame(sink: IO[bytes], body: bytes) -> None:
    sink.write(LENGTH.pack(len(body)) + body)
    sink.flush()


def _claim_output() -> IO[bytes]:
    """Standard output for frames alone; whatever prints goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink


def _forbid_dumps() -> None:
    forbid_dumps()
    sys.excepthook = lambda kind, value, trace: _report(value)


def die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the line above.
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _warm_up() -> None:
    """The first use of HPKE loads its algorithms; the first job must not pay for it."""
    key = PrivateKey.generate()
    key.open(key.public().seal(b"", b""), b"")


def _report(fault: BaseException) -> None:
    """Kind and place only: the text of an exception may hold what was submitted."""
    trace = fault.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    sys.stderr.write(f"validator worker: {type(fault).__name__}{place}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
