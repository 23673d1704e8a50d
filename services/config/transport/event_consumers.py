"""What config takes from other services' streams: verdicts, converged revisions, balances.

Commands have a way in of their own (command_intake.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.config.domain import judging
from services.config.domain.model import Cause
from services.config.settings import ConfigSettings
from services.config.usecases.converged import LiveRevisions
from services.config.usecases.decide import CommandDecider
from services.config.usecases.suspend import AccountSuspender
from shared import catalogue, subjects
from shared.contracts.balance import BalanceEvent
from shared.contracts.codec import parse
from shared.contracts.edge import Converged
from shared.contracts.judging import Verdict
from shared.crypto.signing import Verifier
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.pull import Pull
from shared.runtime import Runtime

VERDICTS_AT_ONCE = 8
CONVERGED_AT_ONCE = 4


def event_consumers(
    runtime: Runtime[ConfigSettings], verdicts: VerdictConsumer, events: EventConsumer
) -> list[Consumer]:
    """Return the durable consumers of config. Only balances are taken one after the other."""
    _, verdict_source, event_source = subjects.DEAD_OWNERS[subjects.CONFIG]
    verdict_letters = DeadLetters(runtime.publisher, verdict_source)
    event_letters = DeadLetters(runtime.publisher, event_source)
    client = runtime.client
    health = runtime.health
    return [
        Consumer(
            Pull(client, subjects.STREAM_JUDGING, subjects.DURABLE_CONFIG_VERDICTS),
            verdicts.handle,
            verdict_letters,
            health,
            concurrency=VERDICTS_AT_ONCE,
        ),
        Consumer(
            Pull(client, subjects.STREAM_EVENTS, subjects.DURABLE_CONFIG_CONVERGED),
            events.handle_converged,
            event_letters,
            health,
            concurrency=CONVERGED_AT_ONCE,
        ),
        Consumer(
            Pull(client, subjects.STREAM_EVENTS, subjects.DURABLE_CONFIG_BALANCES),
            events.handle_balance,
            event_letters,
            health,
        ),
    ]


class VerdictConsumer:
    """https.verdict.submission.v1: the first verdict of a submission wins. One that is late, or has
    no valid attestation, changes nothing.

    ``wake``: of the command runner, for what waited for the verdict."""

    def __init__(
        self, decider: CommandDecider, validator: Callable[[], Verifier], wake: asyncio.Event
    ) -> None:
        self._decider = decider
        self._validator = validator
        self._wake = wake

    async def handle(self, delivery: Delivery) -> None:
        """Decide the submission that a verdict is for."""
        verdict = parse(Verdict, delivery.body)
        judging.verify_verdict(verdict, self._validator())
        if await self._decider.decide_verdict(verdict):
            self._wake.set()


class EventConsumer:
    """https.event.edge.converged.v1 and https.event.balance.overdue|settled.v1."""

    def __init__(self, revisions: LiveRevisions, suspender: AccountSuspender) -> None:
        self._revisions = revisions
        self._suspender = suspender

    async def handle(self, delivery: Delivery) -> None:
        """Handle an event of either kind: a replayed dead letter may be of any."""
        if delivery.subject == catalogue.EVENT_EDGE_CONVERGED:
            await self.handle_converged(delivery)
        else:
            await self.handle_balance(delivery)

    async def handle_converged(self, delivery: Delivery) -> None:
        """Record which revision every node serves (rule C2)."""
        await self._revisions.record_converged(parse(Converged, delivery.body))

    async def handle_balance(self, delivery: Delivery) -> None:
        """Record that an account is overdue or settled (rule E7)."""
        event = parse(BalanceEvent, delivery.body)
        cause = Cause(
            delivery.id,
            delivery.subject,
            "billing",
            event.account,
            delivery.stream_time,
            delivery.traceparent,
        )
        overdue = delivery.subject == catalogue.EVENT_BALANCE_OVERDUE
        await self._suspender.record_balance(event, cause, overdue=overdue)
