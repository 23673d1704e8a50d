"""Where content comes from: names are resolved here, since nginx never does, and unfit addresses
refused (rule A5)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import structlog

from clients.edge_node import metrics

log = structlog.get_logger()
_WAIT_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
_REFRESH_SECONDS = 30.0
_AT_ONCE = 8

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Loopback, private, link-local, multicast and reserved ones are not, in whatever form of IPv6
    they hide."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = (
            address.ipv4_mapped
            or address.sixtofour
            or (address.teredo[1] if address.teredo else None)
        )
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_own(address: Address) -> bool:
    """Whether this machine has the address: then one may listen on it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def is_allowed(address: Address) -> bool:
    return is_public(address) and not is_own(address)


class Origins:
    """Addresses of the origins in use. ``changed(host)`` is called when a host's addresses became
    others."""

    def __init__(self, allow_private: bool, changed: Callable[[str], None]) -> None:
        self._allow_private, self._changed = allow_private, changed
        self._known: dict[str, tuple[str, ...]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def addresses(self, host: str) -> tuple[str, ...]:
        """What is known of the host; waits half a second for a new one. Empty: unknown yet, or none
        is allowed.

        A certificate must not wait for a name server: what comes later is told by ``changed``."""
        if host not in self._known:
            await asyncio.wait([self._ask(host)], timeout=_WAIT_SECONDS)
        return self.known(host)

    def known(self, host: str) -> tuple[str, ...]:
        return self._known.get(host, ())

    async def keep_fresh(self, in_use: Callable[[], set[str]]) -> None:
        """Asks again for every host in use each 30 s, and forgets the others."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            hosts = in_use()
            self._known = {host: found for host, found in self._known.items() if host in hosts}
            await asyncio.gather(*(self._ask(host) for host in hosts))

    def _ask(self, host: str) -> asyncio.Task[None]:
        if host not in self._asking:
            self._asking[host] = asyncio.create_task(self._resolve(host))
            self._asking[host].add_done_callback(lambda _: self._asking.pop(host, None))
        return self._asking[host]

    async def _resolve(self, host: str) -> None:
        try:
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS):
                found = await _look_up(host)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.warning("origin.unresolved", origin=host, error=type(error).__name__)
            return
        allowed = tuple(sorted(str(a) for a in found if self._allow_private or is_allowed(a)))
        if len(allowed) < len(found):
            metrics.ORIGINS_REFUSED.inc(len(found) - len(allowed))
            log.warning(
                "origin.refused",
                origin=host,
                why="an address that is not public, or the node's own",
            )
        before = self._known.get(host)
        self._known[host] = allowed
        if before != allowed:
            self._changed(host)


async def _look_up(host: str) -> set[Address]:
    with suppress(ValueError):
        return {ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))}
    rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows}


def with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
