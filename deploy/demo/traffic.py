"""Visitors and an origin on loopback: real HTTP over the nodes."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from deploy.demo.handshakes import Endpoint

BODY: Final = b"from the origin\n"
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
_ANSWER_SECONDS: Final = 10.0
_PER_CONNECTION: Final = 500
"""nginx closes a connection after its thousandth request."""


class Origin:
    """A customer's web server: answers every request with the same body."""

    port: int
    _server: asyncio.Server

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.get_running_loop().create_server(
            _OriginConnection, "127.0.0.1", 0
        )
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
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._pending = transport, b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            _, _, self._pending = self._pending.partition(b"\r\n\r\n")
            if isinstance(self._transport, asyncio.WriteTransport):
                self._transport.write(_ANSWER)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Visitor:
    """One kept-alive connection to a node; ``context`` None: plain HTTP. ConnectionError when it
    was closed."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> None:
        self._reader, self._writer, self._name = reader, writer, name

    @classmethod
    async def arrive(cls, place: Endpoint, name: str, context: ssl.SSLContext | None) -> Visitor:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(
                place.host, place.port, ssl=context, server_hostname=name if context else None
            )
        return cls(reader, writer, name)

    async def get(self, path: str) -> Answer:
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._name}\r\n\r\n".encode())
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    key.lower(): value.strip()
                    for key, _, value in (line.partition(":") for line in head[1:] if line)
                }
                body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the node closed the connection") from None
        return Answer(int(head[0].split()[1]), headers, body)

    def leave(self) -> None:
        self._writer.transport.abort()


async def send_requests(
    places: list[Endpoint], names: list[str], context: ssl.SSLContext, total: int
) -> list[str]:
    """``total`` HTTPS requests over all nodes and names, four kept-alive connections to each; what
    was not a good answer. Every request that was sent is one of ``total``."""
    routes = [(place, name) for place in places for name in names for _ in range(4)]
    shares = [total // len(routes) + (index < total % len(routes)) for index in range(len(routes))]
    faults: list[str] = []
    await asyncio.gather(
        *(
            _browse(place, name, context, share, faults)
            for (place, name), share in zip(routes, shares, strict=True)
        )
    )
    return faults


async def _browse(
    place: Endpoint, name: str, context: ssl.SSLContext, total: int, faults: list[str]
) -> None:
    for start in range(0, total, _PER_CONNECTION):
        visitor = await Visitor.arrive(place, name, context)
        try:
            for number in range(start, min(start + _PER_CONNECTION, total)):
                answer = await visitor.get(f"/file-{number}")
                if answer.status != 200 or answer.body != BODY:
                    faults.append(f"{place.node} answered {answer.status} for {name}")
        finally:
            visitor.leave()
