"""A validator worker that fails for some submission ids, and judges all others.

``stall-…`` spins, ``sleep-…`` waits, ``die-…`` exits."""

from __future__ import annotations

import os
import threading

from services.validator.sandbox.sealed_judge import WorkerJob
from services.validator.sandbox.worker_main import AnswerJob, main
from shared.contracts.judging import CheckReport, Verdict


def fail_by_id(answer: AnswerJob) -> AnswerJob:
    def wrapped(job: WorkerJob) -> Verdict | CheckReport:
        name = job.request.submission_id
        while name.startswith("stall-"):
            pass
        if name.startswith("sleep-"):
            threading.Event().wait()
        if name.startswith("die-"):
            os._exit(9)
        return answer(job)

    return wrapped


if __name__ == "__main__":
    main(fail_by_id)
