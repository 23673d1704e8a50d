"""Queries on core NATS: an answer is its model; a refusal and a failure are a Refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from faststream.middlewares import ExceptionMiddleware
from faststream.nats import NatsRouter
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.codec import invalid_fields, parse
from shared.contracts.findings import Code, Refusal, finding
from shared.errors import BrokerAway, Malformed, Refused
from shared.faults import describe

log = structlog.get_logger()


def answer_refusals() -> ExceptionMiddleware:
    """Return the FastStream middleware that turns a handler's exceptions into a Refusal, so that
    every question gets an answer."""
    middleware = ExceptionMiddleware()

    @middleware.add_handler(Refused, publish=True)
    def refused(error: Refused) -> Refusal:
        return Refusal(refusal=error.findings)

    @middleware.add_handler(ValidationError, publish=True)
    def malformed(error: ValidationError) -> Refusal:
        fields = [fault.rpartition(":")[0] for fault in invalid_fields(error)]
        message = f"At fault: {', '.join(fields)[:500]}"
        return Refusal(refusal=[finding(Code.REQUEST_MALFORMED, message, field="request")])

    # Whatever else fails is answered too: a question without an answer costs its asker a time-out.
    @middleware.add_handler(Exception, publish=True)
    def failed(error: Exception) -> Refusal:
        log.warning("query.failed", error=describe(error))
        return Refusal(refusal=[finding(Code.SERVICE_BUSY)])

    return middleware


def answer(
    router: NatsRouter,
    query: Query[QuestionT, AnswerT],
    handler: Callable[[QuestionT], Awaitable[AnswerT]],
    *,
    at_once: int = 1,
) -> None:
    """Register ``handler`` for a query of the catalogue; it answers ``at_once`` questions at once.

    The replicas of a service share a queue group, so that one of them answers; where the catalogue
    says ``every_replica``, all hear the question."""
    queue = "" if query.every_replica else query.answerer
    router.subscriber(query, queue=queue, max_workers=at_once)(handler)


async def ask(
    client: Client,
    query: Query[QuestionT, AnswerT],
    question: QuestionT,
    *,
    timeout: float = 5,
) -> AnswerT:
    """Ask one question and return its answer.

    Refused carries the findings of a refusal. BrokerAway: no answer within ``timeout`` seconds, or
    one that is not the model."""
    try:
        reply = await client.request(query, question.encode(), timeout=timeout)
    except NoRespondersError:
        raise BrokerAway(f"no service answers {query}: is it running?") from None
    except (NatsError, OSError, TimeoutError) as error:
        raise BrokerAway(
            f"no answer to {query} within {timeout:g} s ({type(error).__name__})"
        ) from None
    if reply.data.startswith(b'{"refusal":'):
        raise Refused(parse(Refusal, reply.data).refusal)
    try:
        return parse(query.answer, reply.data)
    except Malformed as error:
        raise BrokerAway(f"{query} answered something else: {error}") from None
