"""Real TLS handshakes with the nodes: what they serve, what they refuse, and what while a
certificate changes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

SECONDS: Final = 5.0
REFUSED: Final = (ssl.SSLError, ConnectionError, EOFError)


@dataclass(frozen=True)
class Endpoint:
    """A node's address. ``node``: its id."""

    node: str
    host: str
    port: int

    @classmethod
    def of(cls, node: str, address: str) -> Endpoint:
        host, _, port = address.rpartition(":")
        return cls(node, host, int(port))


def verifying(roots: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Checks chain and name as a browser would, with these roots alone."""
    context = ssl.create_default_context(cafile=str(roots))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def believing() -> ssl.SSLContext:
    """Takes whatever is served: to show that nothing is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def handshake(place: Endpoint, name: str, context: ssl.SSLContext) -> str:
    """SHA-256 of the leaf that is served to ``name`` ('' sends no SNI); one of REFUSED, or
    TimeoutError."""
    async with asyncio.timeout(SECONDS):
        _, writer = await asyncio.open_connection(
            place.host, place.port, ssl=context, server_hostname=name
        )
    try:
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return sha256(leaf).hexdigest()
    finally:
        writer.transport.abort()


@dataclass(frozen=True)
class Agreed:
    """What a handshake agreed on. ``version``: TLSv1.2; ``alpn``: h2, http/1.1 or None; ``leaf``:
    its SHA-256."""

    version: str
    alpn: str | None
    leaf: str


async def agree(place: Endpoint, name: str, context: ssl.SSLContext) -> Agreed:
    """A handshake that offers what ``context`` does; one of REFUSED, or TimeoutError."""
    async with asyncio.timeout(SECONDS):
        _, writer = await asyncio.open_connection(
            place.host, place.port, ssl=context, server_hostname=name
        )
    try:
        tls = writer.get_extra_info("ssl_object")
        leaf = sha256(tls.getpeercert(binary_form=True)).hexdigest()
        return Agreed(tls.version(), tls.selected_alpn_protocol(), leaf)
    finally:
        writer.transport.abort()


async def is_refused(place: Endpoint, name: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether the handshake is answered with a refusal; a node that does not answer at all is a
    TimeoutError."""
    try:
        await handshake(place, name, context or believing())
    except REFUSED:
        return True
    return False


@dataclass
class Watch:
    """Handshakes with one node, one after the other: how many, what failed, when which leaf was
    first served."""

    place: Endpoint
    name: str
    context: ssl.SSLContext
    pause: float = 0.0
    handshakes: int = 0
    failures: list[str] = field(default_factory=list)
    first_seen: dict[str, float] = field(default_factory=dict)
    last_leaf: str = ""

    async def run(self) -> None:
        while True:
            self.handshakes += 1
            try:
                leaf = await handshake(self.place, self.name, self.context)
            except (*REFUSED, TimeoutError, OSError) as error:
                self.failures.append(f"{self.place.node}: {type(error).__name__}: {error}"[:200])
            else:
                if leaf != self.last_leaf and leaf in self.first_seen:
                    self.failures.append(f"{self.place.node}: went back to an earlier certificate")
                self.first_seen.setdefault(leaf, time.monotonic())
                self.last_leaf = leaf
            await asyncio.sleep(self.pause)


class Watches:
    """A Watch for each node, running from enter to exit."""

    def __init__(
        self, places: list[Endpoint], name: str, context: ssl.SSLContext, pause: float = 0.0
    ) -> None:
        self.each = [Watch(place, name, context, pause) for place in places]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watches:
        self._tasks = [asyncio.create_task(watch.run()) for watch in self.each]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def all_serve(self, leaf: str, limit: float) -> float | None:
        """When (monotonic) the last node first served ``leaf``; None when one did not within
        ``limit`` seconds."""
        deadline = time.monotonic() + limit
        while not all(leaf in watch.first_seen for watch in self.each):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.002)
        return max(watch.first_seen[leaf] for watch in self.each)

    @property
    def handshakes(self) -> int:
        return sum(watch.handshakes for watch in self.each)

    @property
    def failures(self) -> list[str]:
        return [failure for watch in self.each for failure in watch.failures]


@dataclass(frozen=True)
class Session:
    """A TLS session that a client would resume."""

    place: Endpoint
    name: str
    context: ssl.SSLContext
    session: ssl.SSLSession | None

    @classmethod
    def open(cls, place: Endpoint, name: str, context: ssl.SSLContext) -> Session:
        """A full handshake; what the server gave to resume it by. Blocking."""
        with _connected(place) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
            # A TLS 1.3 ticket comes after the handshake: give it a moment to arrive.
            tls.settimeout(0.05)
            with suppress(TimeoutError, ssl.SSLError):
                tls.recv(1)
            return cls(place, name, context, tls.session)

    def resume(self) -> str | None:
        """``resumed`` or ``new handshake`` when the server goes along, None when it refuses.
        Blocking."""
        try:
            with (
                _connected(self.place) as plain,
                self.context.wrap_socket(
                    plain, server_hostname=self.name, session=self.session
                ) as tls,
            ):
                return "resumed" if tls.session_reused else "new handshake"
        except REFUSED:
            return None


def _connected(place: Endpoint) -> socket.socket:
    return socket.create_connection((place.host, place.port), timeout=SECONDS)
