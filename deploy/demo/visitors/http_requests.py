"""HTTP requests to the edge nodes, over kept-alive connections as a browser makes them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deploy.demo.visitors.handshakes import Endpoint
from deploy.demo.visitors.origin_server import ORIGIN_BODY

_RESPONSE_SECONDS: Final = 10.0
# nginx closes a connection after its thousandth request (keepalive_requests).
_REQUESTS_PER_CONNECTION: Final = 500
_CONNECTIONS_PER_ROUTE: Final = 4


@dataclass(frozen=True)
class HttpAnswer:
    """A response; ``headers`` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


class VisitorConnection:
    """One kept-alive connection to a node."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name

    @classmethod
    async def open(
        cls, endpoint: Endpoint, name: str, context: ssl.SSLContext | None
    ) -> VisitorConnection:
        """Connect to the domain ``name`` at a node; without ``context`` by plain HTTP."""
        server_name = None if context is None else name
        async with asyncio.timeout(_RESPONSE_SECONDS):
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname=server_name
            )
        return cls(reader, writer, name)

    async def get(self, path: str) -> HttpAnswer:
        """Send a GET request and return the answer.

        ConnectionError when the node closed the connection, TimeoutError after 10 s."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._name}\r\n\r\n".encode())
        try:
            async with asyncio.timeout(_RESPONSE_SECONDS):
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status_line, *header_lines = head.rstrip("\r\n").split("\r\n")
                headers = _parse_headers(header_lines)
                body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the node closed the connection") from None
        return HttpAnswer(int(status_line.split()[1]), headers, body)

    def close(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()


def _parse_headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        headers[key.lower()] = value.strip()
    return headers


async def send_requests(
    endpoints: Sequence[Endpoint], names: Sequence[str], context: ssl.SSLContext, total: int
) -> list[str]:
    """Send exactly ``total`` HTTPS requests, spread over all nodes and domain names.

    Returns one line for each answer that was not 200 with the origin's body."""
    routes: list[tuple[Endpoint, str]] = []
    for endpoint in endpoints:
        for name in names:
            routes += [(endpoint, name)] * _CONNECTIONS_PER_ROUTE
    faults: list[str] = []
    shares = []
    for index, (endpoint, name) in enumerate(routes):
        # The first routes take one request more each, so that the sum is exactly ``total``.
        count = total // len(routes) + (index < total % len(routes))
        shares.append(_send_share(endpoint, name, context, count, faults))
    await asyncio.gather(*shares)
    return faults


async def _send_share(
    endpoint: Endpoint, name: str, context: ssl.SSLContext, count: int, faults: list[str]
) -> None:
    for start in range(0, count, _REQUESTS_PER_CONNECTION):
        visitor = await VisitorConnection.open(endpoint, name, context)
        try:
            for number in range(start, min(start + _REQUESTS_PER_CONNECTION, count)):
                answer = await visitor.get(f"/file-{number}")
                if answer.status != 200 or answer.body != ORIGIN_BODY:
                    faults.append(f"{endpoint.node} answered {answer.status} for {name}")
        finally:
            visitor.close()
