"""Taking deliveries from a pull: acked after they are handled, with one policy for what fails.

A transient fault pauses the consumer: it is never counted against a message and never drops one.
Poison, and a message that failed for a fault of ours, becomes a dead letter and is acked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import Poison
from shared.faults import is_transient
from shared.messaging.cloudevents import event_type
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.observability.metrics import HANDLED
from shared.retry import retry

Handler = Callable[[Delivery], Awaitable[None]]


# The policy for one delivery, in order:
# 1. The handler returns: its effect is committed, so the delivery is acked.
# 2. A transient fault (database or broker away, a deadlock, a time-out): the delivery is not acked
#    and not counted; readiness shows the fault, and the same delivery is tried again after a pause.
# 3. Poison (not its contract, not signed): a dead letter with the reason, then the ack. It can
#    never be handled, however often it is tried.
# 4. Any other fault is a bug of ours: a dead letter, until too many came lately. Then the fault
#    becomes a transient one (DeadLetterLimitReached) and the consumer stands still.
# An ack that is lost means one more delivery: handlers are idempotent by a key in the database.
class Consumer:
    """Gives each delivery of a pull to ``handler``.

    ``concurrency`` deliveries are handled at once; 1 keeps their order."""

    def __init__(
        self,
        pull: Pull,
        handler: Handler,
        dead_letters: DeadLetters,
        health: Health,
        *,
        concurrency: int = 1,
    ) -> None:
        self._pull = pull
        self._handler = handler
        self._dead_letters = dead_letters
        self._health = health
        self._slots = asyncio.Semaphore(concurrency)
        self._ordered = concurrency == 1

    async def run(self) -> None:
        """Take deliveries until cancelled."""
        async with asyncio.TaskGroup() as group:
            async for batch in self._pull.batches():
                for delivery in batch:
                    if self._ordered:
                        await self._settle(delivery)
                    else:
                        await self._slots.acquire()
                        group.create_task(self._settle_and_free_slot(delivery))

    async def _settle_and_free_slot(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery)
        finally:
            self._slots.release()

    async def _settle(self, delivery: Delivery) -> None:
        """Return when the delivery is acked. A transient fault is tried again, not acked."""

        async def handle_and_ack() -> None:
            await handle_or_dead_letter(delivery, self._handler, self._dead_letters)
            await self._pull.ack(delivery)

        name = f"{self._pull.stream}/{self._pull.durable}"
        await retry(handle_and_ack, health=self._health, condition=name)


async def handle_or_dead_letter(
    delivery: Delivery, handler: Handler, dead_letters: DeadLetters
) -> None:
    """Handler one delivery; what can never be handled becomes a dead letter.

    Transient faults are raised, and so is DeadLetterLimitReached."""
    outcome = "done"
    try:
        await handler(delivery)
    except Poison as error:
        outcome = "dead"
        await dead_letters.add(delivery, f"{error.reason}: {error}")
    except Exception as error:
        if is_transient(error):
            raise
        outcome = "dead"
        await dead_letters.add_unexpected(delivery, error)
    dead_letters.message_settled()
    HANDLED.labels(subject=event_type(delivery.subject), outcome=outcome).inc()
