"""Judging what arrives: a submission becomes a verdict, a question becomes a report."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from services.validator.sandbox.pool import Limits, Workers
from services.validator.sandbox.sealed_judge import Secrets, unjudgeable
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
HEADER_BYTES = 4096


class Judging:
    """Owns the pool of workers; a new file of trusted roots gets a new pool before the old one
    goes."""

    def __init__(
        self,
        secrets: Secrets,
        roots_file: Path | None,
        workers: int,
        epoch: CurrentEpoch,
        publisher: Publisher,
        clock: Clock,
        room: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """``room``: bytes that a stream takes in one message."""
        self._secrets, self._roots_file, self._count = secrets, roots_file, workers
        self._epoch, self._publisher, self._clock, self._room = epoch, publisher, clock, room
        self._stamp: tuple[int, int] | None = None
        self._stamp = self._roots_stamp()
        self._pool = self._new_pool()

    async def start(self) -> None:
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    async def check(self, question: CheckCertificate) -> CheckReport:
        report = await self._pool.judge_sealed(question, at=self._clock.now())
        return report if self._fits(len(report.encode())) else unjudgeable(question)

    async def judge(self, delivery: Delivery, pull: Pull) -> None:
        """Publishes the verdict; its id derives from the submission, so the first one wins."""
        request = parse(JudgeSubmission, delivery.body)
        keeping = asyncio.create_task(self._keep(delivery, pull))
        try:
            verdict = await self._pool.judge_sealed(
                request, at=self._clock.now(), sealing=self._epoch.key()
            )
        finally:
            keeping.cancel()
        message = self._message(delivery, request, verdict)
        if not self._fits(len(message.body)):
            message = self._message(delivery, request, unjudgeable(request))
        await self._publisher.publish(message)

    def _message(self, delivery: Delivery, request: JudgeSubmission, verdict: Verdict) -> Outgoing:
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

    def _fits(self, size: int) -> bool:
        """What no message can hold would be published in vain for ever."""
        if size + HEADER_BYTES <= self._room:
            return True
        log.error("answer.too_large", size=size)
        return False

    async def watch_roots(self) -> None:
        """Runs for ever: a changed file of roots is used within seconds."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            stamp = self._roots_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    await self._swap(self._new_pool())
                except EdgetlsError:
                    log.error("roots.unusable", file=str(self._roots_file), kept="the roots before")

    async def _swap(self, fresh: Workers) -> None:
        await fresh.start()
        old, self._pool = self._pool, fresh
        log.info("roots.changed")
        while old.running or old.waiting:
            await asyncio.sleep(PROGRESS_SECONDS)
        await old.close()

    async def _keep(self, delivery: Delivery, pull: Pull) -> None:
        """Tells the stream that the work goes on, so that a queue longer than ack_wait is not
        judged twice."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            await pull.in_progress(delivery)

    def _new_pool(self) -> Workers:
        roots = (
            read_secret(self._roots_file, "EDGETLS_TRUST_ROOTS_FILE") if self._roots_file else ""
        )
        return Workers(
            self._secrets.model_copy(update={"extra_roots": roots}), Limits(count=self._count)
        )

    def _roots_stamp(self) -> tuple[int, int] | None:
        if self._roots_file is None:
            return None
        try:
            found = self._roots_file.stat()
        except OSError:
            return self._stamp  # it is being replaced: the next look sees it
        return found.st_mtime_ns, found.st_size
