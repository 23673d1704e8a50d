"""The frames between a parent and its worker."""

from __future__ import annotations

import io

from services.validator.sandbox.frames import read_frame, write_frame


class UnbufferedPipe(io.BytesIO):
    """A pipe without a buffer: one read returns less than was asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 65536))


def test_a_frame_is_read_until_it_is_complete() -> None:
    sink = io.BytesIO()
    write_frame(sink, b"x" * 200_000)
    write_frame(sink, b"")
    source = UnbufferedPipe(sink.getvalue())
    assert read_frame(source) == b"x" * 200_000
    assert read_frame(source) == b""
    assert read_frame(source) is None
    assert read_frame(UnbufferedPipe(sink.getvalue()[:1000])) is None
