"""Publishing until stored: the same id at every attempt, so that a lost PubAck never doubles a message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from nats.aio.client import Client
from nats.errors import Error as NatsError

from shared.errors import BrokerAway
from shared.messaging.cloudevents import Outgoing

ATTEMPT_SECONDS = 2.0
IN_FLIGHT = 500


class Publisher:
    """Publishes to streams. A forbidden or unknown subject shows as no answer: BrokerAway after ``patience`` s."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=ATTEMPT_SECONDS)
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def publish(self, message: Outgoing, *, patience: float = 10.0) -> int:
        """The stream's sequence of the message (of the first copy, when it is a duplicate)."""
        deadline = time.monotonic() + patience
        delay = 0.05
        while True:
            try:
                async with self._slots:
                    stored = await self._js.publish(
                        message.subject, message.body, timeout=ATTEMPT_SECONDS, headers=message.headers
                    )
                return stored.seq
            except (NatsError, OSError, TimeoutError) as error:
                if time.monotonic() + delay > deadline:
                    reason = str(error) or type(error).__name__
                    raise BrokerAway(f"{message.subject} was not stored: {reason}") from None
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)

    async def publish_all(self, messages: Iterable[Outgoing], *, patience: float = 10.0) -> None:
        """Up to 500 in flight; BrokerAway when one was not stored (others may have been)."""
        results = await asyncio.gather(
            *(self.publish(message, patience=patience) for message in messages), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def tell(self, subject: str, body: bytes) -> None:
        """Core publish, not kept: lost while the broker is away, and that is meant."""
        if self._client.is_connected:
            await self._client.publish(subject, body)
