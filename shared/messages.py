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
    """A message to publish: exact bytes and headers, so that publishing it again is the same
    message."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def id(self) -> str:
        """Return its ce-id."""
        return self.headers["ce-id"]

    @property
    def size(self) -> int:
        """Return the bytes that count against a server's and a stream's limit."""
        return len(self.body) + headers_size(self.headers)


def headers_size(headers: Mapping[str, str]) -> int:
    """Return the bytes of headers on the wire: the first line, ``name: value`` each, an empty
    line."""
    return 14 + sum(
        len(name) + len(value.encode(errors="replace")) + 4 for name, value in headers.items()
    )


class StreamPosition(NamedTuple):
    """The position of a message in its stream. ``time``: when the stream stored it."""

    stream: str
    sequence: int
    time: datetime


def check_size(message: Outgoing) -> None:
    """Raise TooLarge when no stream takes the message: the server would close the sender's
    connection."""
    if message.size > MAX_MESSAGE_BYTES:
        raise too_large(message)


def too_large(message: Outgoing) -> TooLarge:
    """Return the error for a message that is too large for its stream."""
    return TooLarge(f"{message.subject} with {message.size:,} bytes is more than its stream takes")
