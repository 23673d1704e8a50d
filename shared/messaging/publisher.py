"""Publishing until stored: the same id at every attempt, so that a lost PubAck never doubles a
message.

Many events at once go as one atomic batch: one fsync instead of one each (58 k against 5 k a
second)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from functools import partial

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.errors import APIError

from shared import catalogue, subjects
from shared.errors import BrokerAway
from shared.ids import new_id
from shared.messages import Outgoing, check_size, too_large
from shared.retry import retry

ATTEMPT_SECONDS = 2.0
IN_FLIGHT = 500
_BATCH_AT_LEAST = 4
_ATOMIC = frozenset(catalogue.kept_by(subjects.STREAM_EVENTS))
_EXCEEDS_STREAM = 10054


class Publisher:
    """Publishes to streams.

    A forbidden or unknown subject shows as no answer: BrokerAway after ``timeout`` seconds.
    TooLarge at once for a message that no attempt would get stored."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=ATTEMPT_SECONDS)
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def publish(self, message: Outgoing, *, timeout: float = 10.0) -> int:
        """Publish until stored and return the sequence in the stream (of the first copy, when the
        message is a duplicate)."""
        check_size(message)
        try:
            return await retry(
                partial(self._publish_once, message),
                retry_on=_can_pass,
                deadline_seconds=timeout,
                first_delay=0.05,
                longest_delay=1.0,
            )
        except (NatsError, OSError, TimeoutError) as error:
            if _exceeds_limit(error):
                raise too_large(message) from None
            reason = str(error) or type(error).__name__
            raise BrokerAway(f"{message.subject} was not stored: {reason}") from None

    async def _publish_once(self, message: Outgoing) -> int:
        async with self._slots:
            stored = await self._js.publish(
                message.subject, message.body, timeout=ATTEMPT_SECONDS, headers=message.headers
            )
        return stored.seq

    async def publish_all(self, messages: Iterable[Outgoing], *, timeout: float = 10.0) -> None:
        """Publish events together, up to 500 in flight.

        BrokerAway when one was not stored; others may have been."""
        wanted = list(messages)
        for message in wanted:
            check_size(message)
        events = [message for message in wanted if _is_event(message)]
        if _BATCH_AT_LEAST <= len(events) <= IN_FLIGHT and await self._stored_together(events):
            wanted = [message for message in wanted if not _is_event(message)]
        results = await asyncio.gather(
            *(self.publish(message, timeout=timeout) for message in wanted),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # All or none, by the server (NATS ADR-50): the last message of the batch carries the commit.
    # Without a clear answer the caller publishes one by one under the same ids.
    async def _stored_together(self, events: Sequence[Outgoing]) -> bool:
        """Publish events as one atomic batch; return whether all were stored.

        False when one was stored before or the answer is lost: the caller then publishes one by
        one, where the same ids make duplicates harmless."""
        batch = new_id()
        try:
            for number, message in enumerate(events, start=1):
                headers = {
                    **message.headers,
                    "Nats-Batch-Id": batch,
                    "Nats-Batch-Sequence": str(number),
                }
                if number < len(events):
                    await self._client.publish(message.subject, message.body, headers=headers)
                    continue
                headers["Nats-Batch-Commit"] = "1"
                reply = await self._client.request(
                    message.subject, message.body, timeout=ATTEMPT_SECONDS, headers=headers
                )
                answer = json.loads(reply.data or b"{}")
                return "error" not in answer and answer.get("count") == len(events)
        except (NatsError, OSError, TimeoutError, ValueError):
            return False
        return False

    async def erase(self, stream: str, sequence: int) -> None:
        """Have the server overwrite the bytes of one message. A message that is gone already is
        no fault.

        BrokerAway without an answer; also, at every attempt, for a user that has no right to."""
        try:
            question = json.dumps({"seq": sequence}).encode()
            await self._client.request(
                subjects.js_message_delete(stream), question, timeout=ATTEMPT_SECONDS
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(
                f"{stream} does not erase {sequence}: {type(error).__name__}"
            ) from None

    async def publish_core(self, subject: str, body: bytes) -> None:
        """Publish on core NATS. The message is not kept, and is lost while the broker is away."""
        if self._client.is_connected:
            await self._client.publish(subject, body)


def _exceeds_limit(error: Exception) -> bool:
    return isinstance(error, MaxPayloadError) or (
        isinstance(error, APIError) and error.err_code == _EXCEEDS_STREAM
    )


def _can_pass(error: Exception) -> bool:
    passing = isinstance(error, (NatsError, OSError, TimeoutError))
    return passing and not _exceeds_limit(error)


def _is_event(message: Outgoing) -> bool:
    return message.subject in _ATOMIC and "Nats-Msg-Id" in message.headers
