"""Every way into the validator: the query that it answers, and the stream of submissions."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.validator.settings import ValidatorSettings
from services.validator.usecases import JudgingUseCases
from shared import catalogue, subjects
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.pull import Pull
from shared.messaging.rpc import answer
from shared.runtime import Runtime

CHECKS_AT_ONCE = 64
# Half of the pool's queue, so one account's flood, which may fill half of it, is still taken from
# the stream and does not hold up the submissions behind it.
JUDGEMENTS_AT_ONCE = 256


def query_router(judging: JudgingUseCases) -> NatsRouter:
    """Bind the queries of the validator; any replica answers."""
    router = NatsRouter()
    answer(
        router,
        catalogue.RPC_CERTIFICATE_CHECK,
        judging.check_certificate,
        at_once=CHECKS_AT_ONCE,
    )
    return router


def submission_consumer(runtime: Runtime[ValidatorSettings], judging: JudgingUseCases) -> Consumer:
    """Take submissions from JUDGING, many at once and in any order."""
    pull = Pull(
        runtime.client,
        subjects.STREAM_JUDGING,
        subjects.DURABLE_VALIDATOR,
        batch=JUDGEMENTS_AT_ONCE,
    )
    (dead_letter_source,) = subjects.DEAD_OWNERS["validator"]
    return Consumer(
        pull,
        lambda delivery: judging.judge_submission(delivery, pull),
        DeadLetters(runtime.publisher, dead_letter_source),
        runtime.health,
        concurrency=JUDGEMENTS_AT_ONCE,
    )
