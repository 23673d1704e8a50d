"""One request over HTTP/2 in raw frames (RFC 9113, RFC 7541)."""

from tests.support.browser import HttpConnection

DATA = 0
HEADERS = 1


class Http2Visitor:
    """Sends one GET on a connection and reads the frames of its answer."""

    def __init__(self, connection: HttpConnection, authority: str) -> None:
        self._connection = connection
        self._authority = authority
        self._received = b""

    async def get_status(self) -> int:
        """Send the GET and return the status.

        The headers are :method GET, :scheme https, :path /, :authority."""
        name = self._authority.encode()
        block = b"\x82\x87\x84\x01" + bytes([len(name)]) + name
        frames = b"\0\0\0\4\0\0\0\0\0" + len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block
        headers = await self._next_frame(HEADERS, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
        return read_status(headers)

    async def next_status(self) -> int:
        """Return the status of the next headers: the final ones after interim ones."""
        return read_status(await self._next_frame(HEADERS))

    async def read_data(self) -> bytes:
        """Return the payload of the next data frame that is not empty."""
        while True:
            data = await self._next_frame(DATA)
            if data:
                return data

    async def _next_frame(self, kind: int, sent: bytes = b"") -> bytes:
        """Send bytes, drop the frames before the next one of ``kind``, return its payload."""
        found = find_frame(self._received, kind)
        if found is None:
            start = self._received
            self._received += await self._connection.exchange_bytes(
                sent, lambda data: find_frame(start + data, kind) is not None
            )
            found = find_frame(self._received, kind)
        assert found is not None, "the connection ended before the frame"
        payload, self._received = found
        return payload


def find_frame(data: bytes, kind: int) -> tuple[bytes, bytes] | None:
    """Return the payload of the first whole frame of ``kind``, and what follows it."""
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        if len(data) < end:
            return None
        if data[3] == kind:
            return data[9:end], data[end:]
        data = data[end:]
    return None


def read_status(headers: bytes) -> int:
    # 0x88 is the indexed header ":status: 200"; another status stands as three digits.
    if headers[0] == 0x88 or headers[1:2] == b"\x88":
        return 200
    return int(headers[headers.index(b"\x03") + 1 :][:3])
