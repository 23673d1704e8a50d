"""Core request/reply: an answer is its model; a Refused becomes a Refusal, whatever else
``service.busy``."""

from __future__ import annotations

from typing import TypeVar

import structlog
from faststream.middlewares import ExceptionMiddleware
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from shared.contracts.base import Contract
from shared.contracts.findings import Code, Refusal, finding
from shared.crypto.signing import faults, parse
from shared.errors import BrokerAway, Malformed, Refused
from shared.messaging.consumer import describe

log = structlog.get_logger()
AnswerT = TypeVar("AnswerT", bound=Contract)


def answer_refusals() -> ExceptionMiddleware:
    """For a FastStream broker: turns exceptions of a handler into a Refusal, so that the asker
    never waits in vain."""
    middleware = ExceptionMiddleware()

    @middleware.add_handler(Refused, publish=True)
    def refused(error: Refused) -> Refusal:
        return Refusal(refusal=error.findings)

    @middleware.add_handler(ValidationError, publish=True)
    def malformed(error: ValidationError) -> Refusal:
        message = (
            f"At fault: {', '.join(place.rpartition(':')[0] for place in faults(error))[:500]}"
        )
        return Refusal(refusal=[finding(Code.REQUEST_MALFORMED, message, field="request")])

    @middleware.add_handler(Exception, publish=True)
    def failed(error: Exception) -> Refusal:
        log.warning("query.failed", error=describe(error))
        return Refusal(refusal=[finding(Code.SERVICE_BUSY)])

    return middleware


async def ask(
    client: Client, subject: str, question: Contract, answer: type[AnswerT], *, timeout: float = 5
) -> AnswerT:
    """One question; Refused with its findings, BrokerAway when nobody answers in ``timeout``
    seconds."""
    try:
        reply = await client.request(subject, question.encode(), timeout=timeout)
    except NoRespondersError:
        raise BrokerAway(f"nobody answers {subject}: is the service running?") from None
    except (NatsError, OSError, TimeoutError) as error:
        raise BrokerAway(
            f"no answer to {subject} within {timeout:g} s ({type(error).__name__})"
        ) from None
    if reply.data.startswith(b'{"refusal":'):
        raise Refused(parse(Refusal, reply.data).refusal)
    try:
        return parse(answer, reply.data)
    except Malformed as error:
        raise BrokerAway(f"{subject} answered something else: {error}") from None
