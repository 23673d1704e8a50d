"""A customer's web server on loopback."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

ORIGIN_BODY: Final = b"from the origin\n"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
_RESPONSE: Final = _HEAD % len(ORIGIN_BODY) + ORIGIN_BODY
_END_OF_REQUEST: Final = b"\r\n\r\n"


class DemoOrigin:
    """A web server that answers every request with ``ORIGIN_BODY``; ``port`` is on 127.0.0.1."""

    port: int
    _server: asyncio.Server

    async def __aenter__(self) -> DemoOrigin:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(_OriginConnection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()


class _OriginConnection(asyncio.Protocol):
    """One kept-alive connection. Requests have no body here, so a blank line ends each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pending = b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while _END_OF_REQUEST in self._pending:
            _, _, self._pending = self._pending.partition(_END_OF_REQUEST)
            if isinstance(self._transport, asyncio.WriteTransport):
                self._transport.write(_RESPONSE)
