"""What could not be handled for a reason of our own is money that nobody has counted yet: it is
kept in the database, where `edgetls usage gaps` and a metric show it, and tried again. Only poison,
which never can be counted, is buried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from services.billing.domain.wire_format import read_batch
from services.billing.metrics import QUARANTINED
from services.billing.store import quarantine as store
from services.billing.store.logs import LogKey
from services.billing.store.quarantine import BatchRange, QuarantinedMessage
from shared import subjects
from shared.errors import Poison, Transient
from shared.faults import describe, is_transient
from shared.messaging.delivery import Delivery
from shared.storage.pool import Pool

log = structlog.get_logger()
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]
_RETRY_SECONDS: Final = 5.0


class Quarantine:
    """``park`` keeps one message; ``retry``, by lease, gives those that are kept to the ``takes``
    of their durables."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def park(self, durable: str, message: Delivery, error: Exception) -> None:
        """Transient when too many are parked: then the rest waits in its stream, and the service is
        not ready."""
        kept = await store.add_message(
            self._pool, durable, message, describe(error), _range(durable, message)
        )
        if not kept:
            raise Transient(
                f"{store.MAX_QUARANTINED} messages are parked: something is wrong with all of them"
            )
        log.error("message.parked", durable=durable, subject=message.subject, error=describe(error))

    async def retry(self, takes: Mapping[str, BatchHandler]) -> None:
        while True:
            for parked in await store.load_waiting(self._pool):
                await self._try(parked, takes[parked.durable])
            QUARANTINED.set(await store.count_messages(self._pool))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _try(self, parked: QuarantinedMessage, take: BatchHandler) -> None:
        message = parked.delivery()
        try:
            await take([message])
        except Exception as error:
            if is_transient(error):
                raise
            await self.park(parked.durable, message, error)
            return
        await store.remove_message(self._pool, parked)
        log.info("message.unparked", durable=parked.durable, subject=parked.subject)


def _range(durable: str, message: Delivery) -> BatchRange | None:
    """What a usage batch is of; None of anything else."""
    if durable != subjects.DURABLE_BILLING_BATCHES:
        return None
    try:
        batch = read_batch(message.body)
    except Poison:
        return None
    return BatchRange(LogKey(batch.node, batch.log), batch.start, batch.end)
