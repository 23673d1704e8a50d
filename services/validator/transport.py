"""Subjects to use cases."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.validator.usecases import Judging
from shared import subjects
from shared.contracts.judging import CheckCertificate, CheckReport


def router(judging: Judging) -> NatsRouter:
    routes = NatsRouter()

    @routes.subscriber(subjects.RPC_CERTIFICATE_CHECK, queue="validator", max_workers=64)
    async def certificate_check(question: CheckCertificate) -> CheckReport:
        return await judging.check(question)

    return routes
