"""nats-py's client without what it gets wrong, and with a short way for what comes in thousands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import MaxPayloadError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from shared.messaging.cloudevents import Delivery, size_of

Take = Callable[[Delivery], None]
_DELIVERY = re.compile(rb"HMSG (\S+) (\d+) (\S+) (\d+) (\d+)\r\n")
"""Subject, subscription, reply, bytes of headers, of headers and body."""


def guarded(client: Client) -> GuardedClient:
    """The same client, from now on guarded: FastStream makes its own, of a class that cannot be
    chosen."""
    client.__class__ = GuardedClient
    found = cast(GuardedClient, client)
    found.takers = {}
    found._ps.__class__ = _Parser
    return found


class GuardedClient(Client):
    """Made by guarded()."""

    takers: dict[int, Take]

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, Any] | None = None,
    ) -> None:
        """MaxPayloadError for what is too large with its headers: the library forgets them, and the
        server closes the connection of who sends it."""
        if headers and len(payload) + size_of(headers) > self.max_payload:
            raise MaxPayloadError
        await super().publish(subject, payload, reply, headers)

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """The library waits with wait_for, which before Python 3.12 loses a cancellation that meets
        the answer: a loop of ours went on for ever after SIGTERM, or after its lease was lost."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        answer = await super().request(*arguments, **options)
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
        return answer

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """All in one write: a publish of each costs as much as reading it did."""
        acks = b"".join([b"PUB %b 4\r\n+ACK\r\n" % delivery.wire_reply for delivery in deliveries])
        await self._send_command(acks)
        await self._flush_pending()

    async def deliver(self, subject: str, take: Take, other: Callable[[Msg], Any]) -> Subscription:
        """Subscribes; what a stream delivers goes to ``take`` in the reader's own turn, undecoded:
        headers, queue and task of the library's way cost more than everything else. The server's
        own messages go to ``other``."""
        subscription = await self.subscribe(subject, cb=other)
        self.takers[subscription._id] = take
        return subscription

    async def undeliver(self, subscription: Subscription) -> None:
        self.takers.pop(subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """A delivery is told from a status by the reply that acks it: a sender can put any status
        into the headers of what is stored."""
        take = self.takers.get(sid)
        if take is None or not reply:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            take(Delivery(subject, data, reply, headers))

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """The library ends the reader, and still says connected, at headers that are no text or
        that stop too early; the server passes on whatever bytes a sender put there. Such a message
        arrives without headers instead."""
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None


class _Parser(Parser):
    """The library's, but for whole deliveries that somebody takes: it looks at each of them four
    times."""

    nc: GuardedClient

    async def parse(self, data: bytes = b"") -> None:
        if self.nc.takers and self.state == AWAITING_CONTROL_LINE:
            self.buf += data
            if self._take_all(bytes(self.buf)):
                return
            data = b""
        await super().parse(data)

    def _take_all(self, buffer: bytes) -> bool:
        """Takes what it can from the front; whether the rest is the beginning of one more."""
        place, takers = 0, self.nc.takers
        more = False
        while found := _DELIVERY.match(buffer, place):
            subject, subscription, reply, headers, size = found.groups()
            start = found.end()
            end = start + int(size)
            take = takers.get(int(subscription))
            if take is None:
                break
            if len(buffer) < end + 2:
                more = True
                break
            body = start + int(headers)
            take(Delivery(subject, buffer[body:end], reply, buffer[start:body]))
            place = end + 2
        del self.buf[:place]
        return more
