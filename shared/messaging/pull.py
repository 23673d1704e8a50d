"""A continuous pull on one durable: requests overlap, a lost one is made anew, the wire never waits for a time-out.

The library's fetch waits until a batch is full or its time-out is over: that time-out would be the latency.
Each request has a reply subject of its own, so what it still owes is known exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from shared import subjects
from shared.messaging.cloudevents import Delivery

log = structlog.get_logger()
EXPIRES_SECONDS = 5.0
_LAPSE_SECONDS = EXPIRES_SECONDS + 2.0
_LOOK_SECONDS = 0.25


class Pull:
    """``batches()`` yields what has arrived, at least one and at most ``batch`` deliveries, in order.

    ``messages()`` yields the same as the client received it: reading where each came from costs more than the rest."""

    def __init__(self, client: Client, stream: str, durable: str, *, batch: int = 500) -> None:
        self.stream, self.durable, self.batch = stream, durable, batch
        self._client = client
        self._next = subjects.js_next(stream, durable)
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._owed: dict[str, tuple[int, float]] = {}
        self._number = 0
        self._wake = asyncio.Event()

    async def batches(self) -> AsyncIterator[list[Delivery]]:
        async with contextlib.aclosing(self.messages()) as lots:
            async for messages in lots:
                yield [Delivery.of(message) for message in messages]

    async def messages(self) -> AsyncGenerator[list[Msg], None]:
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(f"{inbox}.*", cb=self._arrived)
        filler = asyncio.create_task(self._keep_asking(inbox))
        try:
            while True:
                yield await self._take()
        finally:
            filler.cancel()
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def ack(self, delivery: Delivery) -> None:
        await self._client.publish(delivery.reply, b"+ACK")

    async def ack_all(self, messages: Iterable[Msg]) -> None:
        """What cannot be acked now will be delivered again."""
        with contextlib.suppress(NatsError):
            for message in messages:
                await self._client.publish(message.reply, b"+ACK")

    async def nak(self, delivery: Delivery, delay: float) -> None:
        """``delay`` seconds until the next delivery."""
        await self._client.publish(delivery.reply, b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def in_progress(self, delivery: Delivery) -> None:
        await self._client.publish(delivery.reply, b"+WPI")

    async def _take(self) -> list[Msg]:
        taken = [await self._queue.get()]
        while len(taken) < self.batch and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        self._wake.set()
        return taken

    async def _arrived(self, message: Msg) -> None:
        request = message.subject if message.subject in self._owed else self._request_of(message)
        status = (message.headers or {}).get("Status")
        if status is None:
            self._settle(request)
            await self._queue.put(message)
        elif status != "100":
            self._owed.pop(request, None)
            self._wake.set()
            if status not in ("404", "408"):
                log.debug("pull.status", stream=self.stream, durable=self.durable, status=status)

    def _request_of(self, message: Msg) -> str:
        """A delivery's subject is the original one: it answers the oldest request that still owes something."""
        return next(iter(self._owed), "")

    def _settle(self, request: str) -> None:
        owed, since = self._owed.get(request, (0, 0.0))
        if owed > 1:
            self._owed[request] = (owed - 1, since)
        else:
            self._owed.pop(request, None)

    async def _keep_asking(self, inbox: str) -> None:
        reconnects = self._client.stats["reconnects"]
        while True:
            now = time.monotonic()
            # A server that was away has forgotten what was asked of it, also when it was back between two looks.
            if not self._client.is_connected or self._client.stats["reconnects"] != reconnects:
                reconnects = self._client.stats["reconnects"]
                self._owed.clear()
            for request, (_, since) in list(self._owed.items()):
                if now - since > _LAPSE_SECONDS:
                    del self._owed[request]
            outstanding = sum(owed for owed, _ in self._owed.values())
            if self._client.is_connected and outstanding + self._queue.qsize() <= self.batch // 2:
                await self._ask(inbox)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):  # wait_for can lose a cancellation on Python 3.11
                    await self._wake.wait()

    async def _ask(self, inbox: str) -> None:
        self._number += 1
        request = f"{inbox}.{self._number}"
        body = {"batch": self.batch, "expires": int(EXPIRES_SECONDS * 1e9)}
        self._owed[request] = (self.batch, time.monotonic())
        try:
            await self._client.publish(self._next, json.dumps(body).encode(), reply=request)
        except (NatsError, OSError):
            self._owed.pop(request, None)
