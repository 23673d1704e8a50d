"""CloudEvents 1.0, binary mode, in NATS headers; and what arrives as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

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
    return 14 + sum(len(name) + len(value.encode(errors="replace")) + 4 for name, value in headers.items())


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

    ``dedupe`` sets Nats-Msg-Id to the id and a hash of the body, so that the same id with other content arrives and
    is reported. Usage carries none: the database decides."""
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


@dataclass(frozen=True)
class Delivery:
    """One message as a stream delivered it. ``stream_time``: when the stream stored it; ``sequence``: its place."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    stream: str
    sequence: int
    stream_time: datetime
    reply: str

    @classmethod
    def of(cls, message: Msg) -> Delivery:
        place = message.metadata
        return cls(
            message.subject, message.data, message.headers or {}, place.stream, place.sequence.stream,
            place.timestamp.astimezone(UTC), message.reply,
        )

    @property
    def id(self) -> str:
        return self.headers.get("ce-id", "")

    @property
    def source(self) -> str:
        return self.headers.get("ce-source", "")

    @property
    def traceparent(self) -> str | None:
        return self.headers.get("traceparent")
