"""What other services tell config: verdicts, and what every node serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.config.domain import judging
from services.config.store import domains
from services.config.usecases.decide import Decider
from shared.contracts.codec import parse
from shared.contracts.edge import Converged
from shared.contracts.judging import Verdict
from shared.crypto.signing import Verifier
from shared.messaging.delivery import Delivery
from shared.storage.pool import Pool


class Verdicts:
    """The first verdict of a submission wins; one that is late, or not vouched for, changes
    nothing."""

    def __init__(
        self, decider: Decider, validator: Callable[[], Verifier], wake: asyncio.Event
    ) -> None:
        self._decider, self._validator, self._wake = decider, validator, wake

    async def handle(self, delivery: Delivery) -> None:
        verdict = judging.verified(parse(Verdict, delivery.body), self._validator())
        if await self._decider.verdict(verdict):
            self._wake.set()


class LiveRevisions:
    """https.event.edge.converged.v1: which revision every node serves (rule C2)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle(self, delivery: Delivery) -> None:
        event = parse(Converged, delivery.body)
        async with self._pool.acquire() as connection:
            await domains.converged(connection, event.domain, event.revision)
