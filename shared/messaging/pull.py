"""A continuous pull on one durable consumer.

Requests overlap and a lost one is made again, so that the wire never waits for a time-out. The
library's fetch waits until a batch is full or its time-out is over: that time-out would be the
latency."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from shared import subjects
from shared.messaging.delivery import Delivery
from shared.messaging.nats_client import NatsClient
from shared.streams import PRIORITY_GROUP

log = structlog.get_logger()
EXPIRES_SECONDS = 5.0
_LAPSE_SECONDS = EXPIRES_SECONDS + 2.0
_LOOK_SECONDS = 0.25


# How a request is accounted for:
# - Each request has a reply subject of its own, so what the server still owes is known exactly.
# - A delivery keeps the subject of its message, so it cannot say which request it answers. The
#   server fills the requests of one client in the order in which they came: a delivery counts for
#   the oldest request that is still owed something.
# - A status (no messages, time-out) comes on the request's own reply subject and ends that request.
# - After a reconnect nothing is owed: the server has forgotten what was asked of it.
# - A request that was not ended within its time and a margin is taken for lost.
# - A new request goes out when less than half a batch is waiting or owed, so that the wire never
#   waits for a time-out, and memory never holds more than a batch and a half.
class Pull:
    """Yields deliveries in order, in batches of 1 to ``batch``; want() raises the least."""

    def __init__(self, client: NatsClient, stream: str, durable: str, *, batch: int = 500) -> None:
        self.stream, self.durable, self.batch = stream, durable, batch
        self._client = client
        self._next = subjects.js_next(stream, durable)
        self._waiting: deque[Delivery] = deque()
        self._enough = asyncio.Event()
        self._least = 1
        self._outstanding: dict[str, list[float]] = {}
        self._number = 0
        self._wake = asyncio.Event()

    async def batches(self) -> AsyncGenerator[list[Delivery], None]:
        """Yield batches until the generator is closed."""
        inbox = self._client.new_inbox()
        subscription = await self._client.receive(f"{inbox}.*", self._on_delivery, self._on_status)
        filler = asyncio.create_task(self._keep_requesting(inbox))
        try:
            while True:
                yield await self._take_batch()
        finally:
            filler.cancel()
            await self._client.stop_receiving(subscription)

    def want(self, least: int) -> None:
        """Yield no fewer than ``least`` (at most ``batch``) from now on, until less is wanted."""
        self._least = min(least, self.batch)
        self._check_least()
        self._wake.set()

    async def ack(self, delivery: Delivery) -> None:
        """Ack one delivery."""
        await self._client.publish(delivery.reply, b"+ACK")

    async def ack_all(self, deliveries: Iterable[Delivery]) -> None:
        """Ack many. A delivery that cannot be acked now will be delivered again."""
        with contextlib.suppress(NatsError):
            await self._client.acknowledge(delivery.wire_reply for delivery in deliveries)

    async def in_progress(self, delivery: Delivery) -> None:
        """Tell the stream that the work goes on: its ack_wait begins again."""
        await self._client.publish(delivery.reply, b"+WPI")

    async def _take_batch(self) -> list[Delivery]:
        await self._enough.wait()
        count = min(len(self._waiting), self.batch)
        taken = [self._waiting.popleft() for _ in range(count)]
        self._check_least()
        self._wake.set()
        return taken

    def _check_least(self) -> None:
        if len(self._waiting) >= self._least:
            self._enough.set()
        else:
            self._enough.clear()

    def _on_delivery(self, subject: bytes, body: bytes, reply: bytes, headers: bytes) -> None:
        """Take one delivery; called 100,000 times a second, so everything here counts."""
        for request, owed in self._outstanding.items():
            owed[0] -= 1
            if not owed[0]:
                del self._outstanding[request]
            break
        self._waiting.append(Delivery(subject, body, reply, headers))
        if len(self._waiting) >= self._least:
            self._enough.set()

    async def _on_status(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status != "100":
            self._outstanding.pop(message.subject, None)
            if status in ("404", "408"):
                self._wake.set()
            else:  # such as a stream that is not there: asking again at once would be a hot loop
                log.debug("pull.status", stream=self.stream, durable=self.durable, status=status)

    async def _keep_requesting(self, inbox: str) -> None:
        reconnects = self._client.stats["reconnects"]
        while True:
            now = time.monotonic()
            # A server that was away has forgotten what was asked of it, also when it was back
            # between two looks.
            if not self._client.is_connected or self._client.stats["reconnects"] != reconnects:
                reconnects = self._client.stats["reconnects"]
                self._outstanding.clear()
            for request, (_, since) in list(self._outstanding.items()):
                if now - since > _LAPSE_SECONDS:
                    del self._outstanding[request]
            outstanding = sum(owed for owed, _ in self._outstanding.values())
            if self._client.is_connected and outstanding + len(self._waiting) < max(
                self._least, self.batch // 2 + 1
            ):
                await self._request_batch(inbox)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    _LOOK_SECONDS
                ):  # wait_for can lose a cancellation on Python 3.11
                    await self._wake.wait()

    async def _request_batch(self, inbox: str) -> None:
        self._number += 1
        request = f"{inbox}.{self._number}"
        body = {
            "batch": self.batch,
            "expires": int(EXPIRES_SECONDS * 1e9),
            "group": PRIORITY_GROUP,
            # One that differs from the others' is enough: those of the same are served in turns.
            "priority": random.randrange(10),  # noqa: S311
        }
        self._outstanding[request] = [self.batch, time.monotonic()]
        try:
            await self._client.publish(self._next, json.dumps(body).encode(), reply=request)
        except (NatsError, OSError):
            self._outstanding.pop(request, None)
