"""CloudEvents 1.0, binary mode, in NATS headers; and what arrives as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg

from shared import subjects
from shared.contracts.base import Contract
from shared.ids import new_id


@dataclass(frozen=True)
class Outgoing:
    """One message to publish: exact bytes and headers, so that a republish is the same message."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def id(self) -> str:
        return self.headers["ce-id"]

    @property
    def size(self) -> int:
        """Bytes that count against a server's and a stream's limit."""
        return len(self.body) + size_of(self.headers)


def size_of(headers: Mapping[str, str]) -> int:
    """As they go over the wire: the first line, ``name: value`` each, an empty line."""
    return 14 + sum(
        len(name) + len(value.encode(errors="replace")) + 4 for name, value in headers.items()
    )


def outgoing(
    subject: str,
    body: Contract,
    *,
    source: str,
    about: str,
    at: datetime,
    id: str | None = None,  # the CloudEvents attribute's own name
    cause: str | None = None,
    traceparent: str | None = None,
    dedupe: bool = True,
) -> Outgoing:
    """``about``: the domain or account; ``cause``: the id of the message that made this one.

    ``dedupe`` sets Nats-Msg-Id to the id and a hash of the body, so that the same id with other
    content arrives and is reported. Usage carries none: the database decides."""
    data = body.encode()
    identity = id or new_id()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": identity,
        "ce-type": subjects.event_type(subject),
        "ce-source": source,
        "ce-subject": about,
        "ce-time": at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
    }
    if cause:
        headers["ce-causationid"] = cause
    if traceparent:
        headers["traceparent"] = traceparent
    if dedupe:
        headers["Nats-Msg-Id"] = f"{identity}:{sha256(data).hexdigest()[:16]}"
    return Outgoing(subject, data, headers)


class Place(NamedTuple):
    """``time``: when the stream stored it."""

    stream: str
    sequence: int
    time: datetime


class Delivery:
    """One message as a stream delivered it, decoded where it is looked at: most of thousands never
    are."""

    def __init__(
        self, subject: bytes, body: bytes, reply: bytes = b"", headers: bytes | None = None
    ) -> None:
        self.body = body
        self.wire_subject, self.wire_reply, self._wire_headers = subject, reply, headers

    @classmethod
    def of(cls, subject: str, body: bytes, headers: dict[str, str], place: Place) -> Delivery:
        """As it came once: there is nothing to ack."""
        delivery = cls(subject.encode(), body)
        delivery.headers, delivery.place = headers, place
        return delivery

    @property
    def subject(self) -> str:
        return self.wire_subject.decode(errors="replace")

    @property
    def reply(self) -> str:
        return self.wire_reply.decode()

    @cached_property
    def headers(self) -> dict[str, str]:
        """As the library reads them: what is no header is passed over."""
        _version, _, lines = (self._wire_headers or b"").partition(b"\r\n")
        return Client._parse_header_lines(lines)

    @cached_property
    def place(self) -> Place:
        """NotJSMessageError when there is no reply."""
        found = Msg.Metadata._from_reply(self.reply)
        return Place(found.stream, found.sequence.stream, found.timestamp.astimezone(UTC))

    @property
    def stream(self) -> str:
        return self.place.stream

    @property
    def sequence(self) -> int:
        return self.place.sequence

    @property
    def stream_time(self) -> datetime:
        return self.place.time

    @property
    def id(self) -> str:
        return self.headers.get("ce-id", "")

    @property
    def source(self) -> str:
        return self.headers.get("ce-source", "")

    @property
    def traceparent(self) -> str | None:
        return self.headers.get("traceparent")
