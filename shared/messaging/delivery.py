"""A message as a stream delivered it, decoded where it is looked at."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property

from shared.messages import StreamPosition
from shared.messaging.nats_client import parse_ack_subject, parse_header_lines


class Delivery:
    """A message as a stream delivered it, decoded where it is looked at: most of thousands never
    are."""

    def __init__(
        self, subject: bytes, body: bytes, reply: bytes = b"", headers: bytes | None = None
    ) -> None:
        self.body = body
        self.wire_subject, self.wire_reply, self._wire_headers = subject, reply, headers

    @classmethod
    def of(
        cls, subject: str, body: bytes, headers: dict[str, str], place: StreamPosition
    ) -> Delivery:
        """Build a delivery of what was kept elsewhere; it has no ack subject."""
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
        """Its headers; a line that is no header is passed over."""
        _version, _, lines = (self._wire_headers or b"").partition(b"\r\n")
        return parse_header_lines(lines)

    @cached_property
    def place(self) -> StreamPosition:
        """Its position in the stream. NotJSMessageError when it has no ack subject."""
        return parse_ack_subject(self.reply)

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
