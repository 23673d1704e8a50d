"""What config takes from other services' streams: verdicts, converged revisions, balances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.config.domain import judging
from services.config.domain.model import Cause
from services.config.store import domains
from services.config.usecases.decide import CommandDecider
from services.config.usecases.suspend import AccountSuspender
from shared import catalogue
from shared.contracts.balance import BalanceEvent
from shared.contracts.codec import parse
from shared.contracts.edge import Converged
from shared.contracts.judging import Verdict
from shared.crypto.signing import Verifier
from shared.messaging.delivery import Delivery
from shared.storage.pool import Pool


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

    def __init__(self, pool: Pool, suspender: AccountSuspender) -> None:
        self._pool = pool
        self._suspender = suspender

    async def handle(self, delivery: Delivery) -> None:
        """Handle an event of either kind: a replayed dead letter may be of any."""
        if delivery.subject == catalogue.EVENT_EDGE_CONVERGED:
            await self.handle_converged(delivery)
        else:
            await self.handle_balance(delivery)

    async def handle_converged(self, delivery: Delivery) -> None:
        """Record which revision every node serves (rule C2)."""
        event = parse(Converged, delivery.body)
        async with self._pool.acquire() as connection:
            await domains.record_converged(connection, event.domain, event.revision)

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
