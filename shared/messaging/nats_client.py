"""nats-py's client with its faults mended, and a short way for deliveries that come in thousands.

This is the only module that uses private names of nats-py. pyproject.toml pins the library below
its next minor version, and tests/unit/test_nats_client.py fails when one of these names changes.
Read in nats-py 2.16.0:

| private name | why | upstream |
| --- | --- | --- |
| ``Client._process_msg`` | deliveries skip the queue and task of a subscription | nats.py#862 |
| ``Client._process_headers`` | a header that is no text ended the reader | nats.py#924 |
| ``Client._send_command``, ``_flush_pending`` | one write for many acks | none |
| ``Subscription._id`` | finds the receiver of a subscription | none |
| ``JetStreamContext._api_request``, ``_timeout`` | reads priority groups | nats.py#784 |
| ``Client._parse_header_lines`` | reads the headers of a delivery when asked for | none |
| ``Msg.Metadata._from_reply`` | reads stream, sequence and time from an ack subject | none |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext

from shared import subjects
from shared.messages import StreamPosition, headers_size

# Called with subject, body, reply (the ack subject) and headers, all as bytes.
Receiver = Callable[[bytes, bytes, bytes, bytes], None]


def as_nats_client(client: Client) -> NatsClient:
    """Make a connected client a NatsClient: FastStream makes its own, of a class that cannot be
    chosen."""
    client.__class__ = NatsClient
    upgraded = cast(NatsClient, client)
    upgraded.receivers = {}
    return upgraded


class NatsClient(Client):
    """nats-py's client; made by as_nats_client()."""

    receivers: dict[int, Receiver]

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Publish on core NATS. MaxPayloadError when body and headers are too large together.

        The library counts the body alone, and the server closes the connection of a sender that
        goes over its limit (nats.py#888)."""
        if headers and len(payload) + headers_size(headers) > self.max_payload:
            raise MaxPayloadError
        await super().publish(subject, payload, reply, headers)

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """Ask and return the answer; a cancellation that meets the answer is kept.

        The library waits with asyncio.wait_for, which loses such a cancellation before Python 3.12
        (cpython#86296): a loop went on for ever after SIGTERM, or after its lease was lost."""
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        answer = await super().request(*arguments, **options)
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
        return answer

    async def acknowledge(self, ack_subjects: Iterable[bytes]) -> None:
        """Ack many deliveries in one write: a publish of each costs as much as reading it did."""
        acks = b"".join([b"PUB %b 4\r\n+ACK\r\n" % subject for subject in ack_subjects])
        await self._send_command(acks)
        await self._flush_pending()

    async def receive(
        self, subject: str, receiver: Receiver, other: Callable[[Msg], Any]
    ) -> Subscription:
        """Subscribe; deliveries of a stream go to ``receiver``, the server's statuses to ``other``.

        ``receiver`` runs in the reader's own turn and gets undecoded bytes: the headers, queue and
        task of the library's way cost more than everything else together."""
        subscription = await self.subscribe(subject, cb=other)
        self.receivers[subscription._id] = receiver
        return subscription

    async def stop_receiving(self, subscription: Subscription) -> None:
        """End a subscription of receive()."""
        self.receivers.pop(subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """Tell a delivery from a status by its ack subject: a sender can put any status into the
        headers of a message that a stream keeps."""
        receiver = self.receivers.get(sid)
        if receiver is None or not reply:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            receiver(subject, data, reply, headers)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Let a message with unreadable headers arrive without them.

        The server passes on whatever bytes a sender put there. At headers that are no text, or
        that end too early, the library ends its reader and still says that it is connected."""
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None


async def read_consumer_config(js: JetStreamContext, stream: str, durable: str) -> dict[str, Any]:
    """Return a consumer's configuration as the server has it, with the fields that nats-py does
    not name. NotFoundError when there is none."""
    subject = subjects.js_consumer_info(stream, durable)
    answer = await js._api_request(subject, timeout=js._timeout)
    config: dict[str, Any] = answer["config"]
    return config


def parse_header_lines(lines: bytes) -> dict[str, str]:
    """Return the headers of ``name: value`` lines; what is no header is passed over."""
    return Client._parse_header_lines(lines)


def parse_ack_subject(reply: str) -> StreamPosition:
    """Return a delivery's position from its ack subject. NotJSMessageError when it is none."""
    metadata = Msg.Metadata._from_reply(reply)
    stored_at = metadata.timestamp.astimezone(UTC)
    return StreamPosition(metadata.stream, metadata.sequence.stream, stored_at)
