"""Real TLS handshakes with the nodes: what they serve, what they refuse, and what they serve while
a certificate changes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

HANDSHAKE_SECONDS: Final = 5.0
HANDSHAKE_REFUSED: Final = (ssl.SSLError, ConnectionError, EOFError)
"""Exceptions of a handshake that the node refused. A node that does not answer at all is a
TimeoutError."""
_TICKET_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Endpoint:
    """Address of a node. ``node``: its id."""

    node: str
    host: str
    port: int

    @classmethod
    def parse(cls, node: str, address: str) -> Endpoint:
        """Return the endpoint of ``host:port``."""
        host, _, port = address.rpartition(":")
        return cls(node, host, int(port))


def verifying_context(roots: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that checks chain and name as a browser does, with these roots alone.

    ``version``: offer this TLS version only."""
    context = ssl.create_default_context(cafile=str(roots))
    if version is not None:
        context.minimum_version = version
        context.maximum_version = version
    return context


def unverified_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate, to show that a node serves none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class NegotiatedTls:
    """Result of a handshake. ``version``: such as TLSv1.2; ``alpn``: h2, http/1.1 or None;
    ``leaf``: SHA-256 of the leaf that was served."""

    version: str
    alpn: str | None
    leaf: str


async def negotiate_tls(endpoint: Endpoint, name: str, context: ssl.SSLContext) -> NegotiatedTls:
    """Shake hands with what ``context`` offers; an empty ``name`` sends no SNI.

    One of HANDSHAKE_REFUSED, or TimeoutError after 5 s."""
    async with _connect_tls(endpoint, name, context) as tls:
        leaf = tls.getpeercert(binary_form=True) or b""
        version = tls.version() or ""
        return NegotiatedTls(version, tls.selected_alpn_protocol(), sha256(leaf).hexdigest())


async def fetch_leaf(endpoint: Endpoint, name: str, context: ssl.SSLContext) -> str:
    """Return the SHA-256 of the leaf that the node serves to ``name``; raises like
    ``negotiate_tls``."""
    return (await negotiate_tls(endpoint, name, context)).leaf


async def is_refused(endpoint: Endpoint, name: str, context: ssl.SSLContext | None = None) -> bool:
    """Return whether the node refuses the handshake; TimeoutError when it does not answer.

    ``context``: by default one that accepts any certificate."""
    try:
        await fetch_leaf(endpoint, name, context or unverified_context())
    except HANDSHAKE_REFUSED:
        return True
    return False


@asynccontextmanager
async def _connect_tls(
    endpoint: Endpoint, name: str, context: ssl.SSLContext
) -> AsyncIterator[ssl.SSLObject]:
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        _, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=context, server_hostname=name
        )
    try:
        yield writer.get_extra_info("ssl_object")
    finally:
        # Not close(): it would wait for the node's close_notify.
        writer.transport.abort()


@dataclass
class HandshakeLoop:
    """Handshakes with one node, one after the other.

    ``first_seen``: when (monotonic) each leaf was first served."""

    endpoint: Endpoint
    name: str
    context: ssl.SSLContext
    pause: float = 0.0
    handshakes: int = 0
    failures: list[str] = field(default_factory=list)
    first_seen: dict[str, float] = field(default_factory=dict)
    last_leaf: str = ""

    async def run(self) -> None:
        """Shake hands until cancelled."""
        while True:
            self.handshakes += 1
            try:
                leaf = await fetch_leaf(self.endpoint, self.name, self.context)
            except (*HANDSHAKE_REFUSED, TimeoutError, OSError) as error:
                self._add_failure(f"{type(error).__name__}: {error}")
            else:
                self._add_leaf(leaf)
            await asyncio.sleep(self.pause)

    def _add_leaf(self, leaf: str) -> None:
        if leaf == self.last_leaf:
            return
        # A replacement is one step. A node that serves the old leaf again after the new one has
        # two states at once, in two processes for example.
        if leaf in self.first_seen:
            self._add_failure("went back to an earlier certificate")
        self.first_seen.setdefault(leaf, time.monotonic())
        self.last_leaf = leaf

    def _add_failure(self, text: str) -> None:
        self.failures.append(f"{self.endpoint.node}: {text}"[:200])


class FleetHandshakes:
    """A ``HandshakeLoop`` for each node, running from enter to exit."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        name: str,
        context: ssl.SSLContext,
        pause: float = 0.0,
    ) -> None:
        self.loops = [HandshakeLoop(endpoint, name, context, pause) for endpoint in endpoints]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> FleetHandshakes:
        self._tasks = [asyncio.create_task(loop.run()) for loop in self.loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def wait_until_all_serve(self, leaf: str, limit: float) -> float | None:
        """Return when (monotonic) the last node first served ``leaf``.

        None when some node did not within ``limit`` seconds."""
        deadline = time.monotonic() + limit
        # 2 ms: the result is a measurement, and nothing is sent by looking.
        while self.nodes_without(leaf):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.002)
        return max(loop.first_seen[leaf] for loop in self.loops)

    def nodes_without(self, leaf: str) -> list[str]:
        """Return the ids of the nodes that have not served ``leaf`` yet."""
        return [loop.endpoint.node for loop in self.loops if leaf not in loop.first_seen]

    @property
    def handshakes(self) -> int:
        """Number of handshakes with all nodes, failed ones included."""
        return sum(loop.handshakes for loop in self.loops)

    @property
    def failures(self) -> list[str]:
        """One line for each failed handshake, and for each return to an earlier certificate."""
        found: list[str] = []
        for loop in self.loops:
            found += loop.failures
        return found


@dataclass(frozen=True)
class TlsSession:
    """A TLS session that a client could resume."""

    endpoint: Endpoint
    name: str
    context: ssl.SSLContext
    session: ssl.SSLSession | None

    @classmethod
    def open(cls, endpoint: Endpoint, name: str, context: ssl.SSLContext) -> TlsSession:
        """Make a full handshake and keep what the server gave to resume it. Blocking."""
        with (
            _connect_socket(endpoint) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            # A TLS 1.3 ticket comes after the handshake: give it a moment to arrive.
            tls.settimeout(_TICKET_SECONDS)
            with suppress(TimeoutError, ssl.SSLError):
                tls.recv(1)
            return cls(endpoint, name, context, tls.session)

    def resume(self) -> Literal["resumed", "new handshake"] | None:
        """Try to resume the session. None when the server refuses the connection. Blocking."""
        try:
            with (
                _connect_socket(self.endpoint) as plain,
                self.context.wrap_socket(
                    plain, server_hostname=self.name, session=self.session
                ) as tls,
            ):
                if tls.session_reused:
                    return "resumed"
                return "new handshake"
        except HANDSHAKE_REFUSED:
            return None


def _connect_socket(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection((endpoint.host, endpoint.port), timeout=HANDSHAKE_SECONDS)
