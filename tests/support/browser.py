"""Both sides of a node: visitors with TLS handshakes and HTTP requests, and an origin."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.support.waiting import LIMIT_SECONDS

REFUSALS: Final = (ssl.SSLError, ConnectionError, EOFError)
"""What a visitor gets who is refused: an alert, or a closed connection."""
ORIGIN_BODY: Final = b"from the origin\n"
_ORIGIN_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (
    len(ORIGIN_BODY),
    ORIGIN_BODY,
)
_REQUESTS_PER_CONNECTION: Final = 500
"""nginx closes a connection after its thousandth request."""


@dataclass(frozen=True)
class NodeAddress:
    """``node``: the node's id."""

    node: str
    host: str
    port: int

    @classmethod
    def parse(cls, node: str, address: str) -> NodeAddress:
        """Read ``host:port``."""
        host, _, port = address.rpartition(":")
        return cls(node, host, int(port))


def trusting_context(roots: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that checks chain and name as a browser does, with these roots alone.

    With ``version`` it speaks that one only.
    """
    context = ssl.create_default_context(cafile=str(roots))
    if version is not None:
        context.minimum_version = version
        context.maximum_version = version
    return context


def unchecking_context() -> ssl.SSLContext:
    """Return a context that takes whatever is served: to show that nothing is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Negotiated:
    """What a handshake agreed on: ``version`` as ``TLSv1.2``, ``alpn`` as ``h2``, ``http/1.1`` or
    None, ``leaf`` as the SHA-256 of the served certificate in hex."""

    version: str
    alpn: str | None
    leaf: str


async def negotiate(address: NodeAddress, name: str, context: ssl.SSLContext) -> Negotiated:
    """Make one handshake for ``name`` (an empty one sends no SNI).

    Raise one of REFUSALS when the node refuses, TimeoutError when it does not answer at all.
    """
    async with asyncio.timeout(LIMIT_SECONDS):
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname=name
        )
    try:
        tls = writer.get_extra_info("ssl_object")
        leaf = sha256(tls.getpeercert(binary_form=True)).hexdigest()
        return Negotiated(tls.version(), tls.selected_alpn_protocol(), leaf)
    finally:
        writer.transport.abort()


async def served_leaf(address: NodeAddress, name: str, context: ssl.SSLContext) -> str:
    """Return the SHA-256 of the leaf that is served to ``name``; raise as ``negotiate`` does."""
    return (await negotiate(address, name, context)).leaf


async def served_leaves(
    addresses: Sequence[NodeAddress], name: str, context: ssl.SSLContext
) -> set[str]:
    """Return the leaves that these nodes serve to ``name``: one where they agree."""
    return {await served_leaf(address, name, context) for address in addresses}


async def is_refused(
    address: NodeAddress, name: str, context: ssl.SSLContext | None = None
) -> bool:
    """Tell whether the handshake is refused; TimeoutError when the node does not answer at all."""
    try:
        await negotiate(address, name, context or unchecking_context())
    except REFUSALS:
        return True
    return False


class HandshakeLoad:
    """Handshakes with each node, one after the other, from enter to exit.

    ``count``: how many were tried; ``failures``: what went wrong, a sentence each.
    """

    def __init__(
        self, addresses: Sequence[NodeAddress], name: str, context: ssl.SSLContext
    ) -> None:
        self.count = 0
        self.failures: list[str] = []
        self._addresses = addresses
        self._name = name
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> HandshakeLoad:
        for address in self._addresses:
            self._tasks.append(asyncio.create_task(self._visit(address)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _visit(self, address: NodeAddress) -> None:
        while True:
            self.count += 1
            try:
                await negotiate(address, self._name, self._context)
            except (*REFUSALS, TimeoutError, OSError) as error:
                self.failures.append(f"{address.node}: {type(error).__name__}: {error}"[:200])


@dataclass(frozen=True)
class HttpResponse:
    """``size``: bytes on the wire, head and body."""

    status: int
    headers: dict[str, str]
    body: bytes
    size: int


class HttpConnection:
    """One kept-alive HTTP/1.1 connection to a node, plain or with TLS.

    Whatever it asks raises ConnectionError when the node closes the connection, and TimeoutError
    when it does not answer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(
        cls, host: str, port: int, name: str = "", context: ssl.SSLContext | None = None
    ) -> HttpConnection:
        """Connect with TLS for ``name`` where a ``context`` is given, else without."""
        async with asyncio.timeout(LIMIT_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=name if context else None
            )
        return cls(reader, writer)

    @property
    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    async def get(
        self, host: str, path: str = "/", method: str = "GET", **headers: str
    ) -> HttpResponse:
        """Send a request without a body. ``headers``: ``_`` stands for ``-`` in their names."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
        for name, value in headers.items():
            lines.append(f"{name.replace('_', '-')}: {value}")
        return await self.send_raw("\r\n".join([*lines, "", ""]).encode())

    async def send_raw(self, raw: bytes) -> HttpResponse:
        """Send the bytes of a request and read its answer."""
        self._writer.write(raw)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                head = await self._reader.readuntil(b"\r\n\r\n")
                first_line, headers = parse_head(head)
                if "content-length" in headers:
                    body = await self._reader.readexactly(int(headers["content-length"]))
                else:
                    body = await self._reader.read(-1)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the node closed the connection") from None
        status = int(first_line.split()[1])
        return HttpResponse(status, headers, body, len(head) + len(body))

    async def exchange_bytes(self, raw: bytes, is_complete: Callable[[bytes], bool]) -> bytes:
        """Send bytes that are not HTTP/1.1; return what came once it is complete, or the end."""
        self._writer.write(raw)
        received = b""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not is_complete(received):
                data = await self._reader.read(65536)
                if not data:
                    break
                received += data
        return received

    def close(self) -> None:
        self._writer.transport.abort()

    async def __aenter__(self) -> HttpConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def send_requests(
    address: NodeAddress, name: str, context: ssl.SSLContext, total: int
) -> None:
    """Send ``total`` HTTPS requests, each answered by the origin with its usual body."""
    sent = 0
    while sent < total:
        async with await HttpConnection.connect(
            address.host, address.port, name, context
        ) as visitor:
            for _ in range(min(total - sent, _REQUESTS_PER_CONNECTION)):
                response = await visitor.get(name, f"/file-{sent}")
                assert (response.status, response.body) == (200, ORIGIN_BODY), address.node
                sent += 1


@dataclass(frozen=True)
class OriginRequest:
    """A request as it came to the origin. ``line``: its first line; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]


@dataclass
class OriginServer:
    """A customer's web server: gives every request ``answer`` and keeps it in ``requests``."""

    answer: bytes = _ORIGIN_ANSWER
    requests: list[OriginRequest] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = field(default=None, repr=False)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _OriginConnection(self), "127.0.0.1", 0, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def __aenter__(self) -> OriginServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _OriginConnection(asyncio.Protocol):
    """A protocol, not streams: the fault tests send hundreds of requests a second through it."""

    def __init__(self, origin: OriginServer) -> None:
        self._origin = origin
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, rest = self._pending.partition(b"\r\n\r\n")
            line, headers = parse_head(head)
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._origin.requests.append(OriginRequest(line, headers, rest[:length]))
            self._pending = rest[length:]
            self._transport.write(self._origin.answer)


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Split the head of a message into its first line and its headers, names in lower case."""
    first_line, *others = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for line in others:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return first_line, headers
