"""Messages as values: what is published, and the position of a message in its stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from shared.errors import TooLarge
from shared.streams import MAX_MESSAGE_BYTES


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
        return len(self.body) + headers_size(self.headers)


def headers_size(headers: Mapping[str, str]) -> int:
    """As they go over the wire: the first line, ``name: value`` each, an empty line."""
    return 14 + sum(
        len(name) + len(value.encode(errors="replace")) + 4 for name, value in headers.items()
    )


class StreamPosition(NamedTuple):
    """``time``: when the stream stored it."""

    stream: str
    sequence: int
    time: datetime


def check_size(message: Outgoing) -> None:
    """TooLarge when no stream takes it: the server would even close the connection of who sends
    it."""
    if message.size > MAX_MESSAGE_BYTES:
        raise too_large(message)


def too_large(message: Outgoing) -> TooLarge:
    return TooLarge(f"{message.subject} with {message.size:,} bytes is more than its stream takes")
