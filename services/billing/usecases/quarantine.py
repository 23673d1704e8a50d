"""Quarantine: messages that could not be handled for a fault of ours.

Such a message is money that is not counted yet. It is kept in the database, where
``edgetls usage gaps`` and a metric show it, and it is tried again until it is handled. Only poison,
which can never be counted, becomes a dead letter. The quarantine has a limit, as dead letters have:
past it a consumer takes no more, because something is wrong with all messages and not with one.
"""

from __future__ import annotations

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
from shared.retry import every
from shared.storage.pool import Pool

log = structlog.get_logger()
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]
"""Handles deliveries that arrived together, in one transaction: all of them, or none."""
_RETRY_SECONDS: Final = 5.0


class QuarantineLimitReached(Transient):
    """Too many messages are in quarantine: this one stays in its stream until there is room."""


class Quarantine:
    """Keeps messages, and tries those that it keeps again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, durable: str, message: Delivery, error: Exception) -> None:
        """Keep a message that failed with ``error``, or count one more try of it.

        QuarantineLimitReached, a transient fault, when too many others are kept: the message stays
        in its stream, and the consumer tries it again."""
        # The limit counts what is kept by all processes now, not what was added lately: messages
        # stay until they are handled, and a restart must not begin to count anew. A message that is
        # kept already is no addition: it may fail again at the limit too.
        place = _batch_range(durable, message)
        kept = await store.add_message(self._pool, durable, message, describe(error), place)
        if not kept:
            raise QuarantineLimitReached(
                f"{store.MAX_QUARANTINED} messages are in quarantine for a fault of this service:"
                " it takes no more. Nothing is lost. Look at the log and at 'edgetls usage gaps',"
                " then mend the service"
            )
        log.error(
            "message.quarantined", durable=durable, subject=message.subject, error=describe(error)
        )

    async def retry_messages(self, handlers: Mapping[str, BatchHandler]) -> None:
        """Try the messages again every few seconds. ``handlers``: by durable. Never returns.

        One process at a time, by lease."""

        async def retry_all() -> None:
            for message in await store.load_waiting(self._pool):
                await self._retry(message, handlers[message.durable])
            QUARANTINED.set(await store.count_messages(self._pool))

        await every(_RETRY_SECONDS, retry_all, on_fault=_log_postponed)

    async def _retry(self, message: QuarantinedMessage, handler: BatchHandler) -> None:
        delivery = message.as_delivery()
        try:
            await handler([delivery])
        except Exception as error:
            if is_transient(error):
                raise
            await self.add(message.durable, delivery, error)
            return
        await store.remove_message(self._pool, message)
        log.info("message.released", durable=message.durable, subject=message.subject)


def _log_postponed(error: Exception) -> None:
    log.warning("quarantine.retry_postponed", error=describe(error))


def _batch_range(durable: str, message: Delivery) -> BatchRange | None:
    """Return the range of a usage batch. None for any other message."""
    if durable != subjects.DURABLE_BILLING_BATCHES:
        return None
    try:
        batch = read_batch(message.body)
    except Poison:
        return None
    return BatchRange(LogKey(batch.node, batch.log), batch.start, batch.end)
