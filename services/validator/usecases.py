"""The use cases of the validator: a submission becomes a verdict, a dry run becomes a report."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from services.validator.sandbox.pool import PoolLimits, WorkerPool
from services.validator.sandbox.sealed_judge import WorkerSecrets, refuse_unjudgeable
from services.validator.sealing_epoch import CurrentEpoch
from shared import catalogue
from shared.clock import Clock
from shared.contracts.codec import parse
from shared.contracts.judging import CheckCertificate, CheckReport, JudgeSubmission, Verdict
from shared.errors import EdgetlsError
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.settings import read_secret
from shared.streams import MAX_MESSAGE_BYTES

log = structlog.get_logger()
PROGRESS_SECONDS = 0.8
LOOK_SECONDS = 1.0
MAX_HEADER_BYTES = 4096


class JudgingUseCases:
    """Judges submissions and dry runs in a pool of workers.

    When the file of trust roots changes, a new pool takes over before the old one ends.
    """

    def __init__(
        self,
        secrets: WorkerSecrets,
        roots_file: Path | None,
        workers: int,
        epoch: CurrentEpoch,
        publisher: Publisher,
        clock: Clock,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """``max_message_bytes``: the size of a message that a stream takes."""
        self._secrets = secrets
        self._roots_file = roots_file
        self._workers = workers
        self._epoch = epoch
        self._publisher = publisher
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._roots_version: tuple[int, int] | None = None
        self._roots_version = self._read_roots_version()
        self._pool = self._make_pool()

    async def start(self) -> None:
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    async def check_certificate(self, question: CheckCertificate) -> CheckReport:
        """Return the report of a dry run."""
        report = await self._pool.judge_sealed(question, at=self._clock.now())
        if not self._fits_message(len(report.encode())):
            return refuse_unjudgeable(question)
        return report

    async def judge_submission(self, delivery: Delivery, pull: Pull) -> None:
        """Publish the verdict. Its id derives from the submission, so the first one counts."""
        request = parse(JudgeSubmission, delivery.body)
        progress = asyncio.create_task(self._report_progress(delivery, pull))
        try:
            verdict = await self._pool.judge_sealed(
                request, at=self._clock.now(), sealing=self._epoch.key()
            )
        finally:
            progress.cancel()
        message = self._make_message(delivery, request, verdict)
        if not self._fits_message(len(message.body)):
            message = self._make_message(delivery, request, refuse_unjudgeable(request))
        await self._publisher.publish(message)

    def _make_message(
        self, delivery: Delivery, request: JudgeSubmission, verdict: Verdict
    ) -> Outgoing:
        return outgoing(
            catalogue.VERDICT_SUBMISSION,
            verdict,
            source="validator",
            about=next(iter(request.domains), request.account),
            at=self._clock.now(),
            id=derived_id("verdict", request.submission_id),
            cause=delivery.id or None,
            traceparent=delivery.traceparent,
        )

    def _fits_message(self, size: int) -> bool:
        """Check the size of a body: no retry would ever publish one that no message can carry."""
        if size + MAX_HEADER_BYTES <= self._max_message_bytes:
            return True
        log.error("answer.too_large", size=size)
        return False

    async def _report_progress(self, delivery: Delivery, pull: Pull) -> None:
        """Extend the delivery's ack_wait, so that a long queue does not get it judged twice."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            await pull.in_progress(delivery)

    async def watch_trust_roots(self) -> None:
        """Use a changed file of trust roots within seconds. Never returns."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            version = self._read_roots_version()
            if version == self._roots_version:
                continue
            self._roots_version = version
            try:
                await self._replace_pool(self._make_pool())
            except EdgetlsError:
                log.error("roots.unusable", file=str(self._roots_file), kept="the previous roots")

    async def _replace_pool(self, new_pool: WorkerPool) -> None:
        await new_pool.start()
        old_pool = self._pool
        self._pool = new_pool
        log.info("roots.changed")
        while old_pool.running_jobs or old_pool.waiting_jobs:
            await asyncio.sleep(PROGRESS_SECONDS)
        await old_pool.close()

    def _make_pool(self) -> WorkerPool:
        roots = ""
        if self._roots_file is not None:
            roots = read_secret(self._roots_file, "EDGETLS_TRUST_ROOTS_FILE")
        secrets = self._secrets.model_copy(update={"extra_roots": roots})
        return WorkerPool(secrets, PoolLimits(workers=self._workers))

    def _read_roots_version(self) -> tuple[int, int] | None:
        """Return the time and size of the file, which show a change; None without a file."""
        if self._roots_file is None:
            return None
        try:
            status = self._roots_file.stat()
        except OSError:
            return self._roots_version  # it is being replaced: the next look sees it
        return status.st_mtime_ns, status.st_size
