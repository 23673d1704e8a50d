"""Every question that the validator answers, bound to the use case that answers it."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.validator.usecases import Judging
from shared import catalogue
from shared.messaging.rpc import answer

CHECKS_AT_ONCE = 64


def query_router(judging: Judging) -> NatsRouter:
    """Bind the queries of the validator; any replica answers."""
    router = NatsRouter()
    answer(router, catalogue.RPC_CERTIFICATE_CHECK, judging.check, at_once=CHECKS_AT_ONCE)
    return router
