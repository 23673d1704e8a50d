"""The frames between a parent and its worker: 4 bytes of length, big endian, then the body."""

from __future__ import annotations

import struct
from typing import IO

FRAME_LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 16 * 1024 * 1024


def encode_frame(body: bytes) -> bytes:
    return FRAME_LENGTH.pack(len(body)) + body


def write_frame(sink: IO[bytes], body: bytes) -> None:
    sink.write(encode_frame(body))
    sink.flush()


def read_frame(source: IO[bytes]) -> bytes | None:
    """Read one frame; None at the end of input."""
    head = _read_exactly(source, FRAME_LENGTH.size)
    if head is None:
        return None
    return _read_exactly(source, FRAME_LENGTH.unpack(head)[0])


def _read_exactly(source: IO[bytes], length: int) -> bytes | None:
    """Read until all is there. One read of an unbuffered pipe returns at most its 64 KiB."""
    parts = []
    while length and (part := source.read(length)):
        parts.append(part)
        length -= len(part)
    return None if length else b"".join(parts)
