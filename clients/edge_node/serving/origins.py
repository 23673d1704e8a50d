"""Resolve the names of origins, since nginx never does, and refuse unfit addresses (rule A5)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import structlog

from clients.edge_node import metrics
from shared.retry import every

log = structlog.get_logger()
_WAIT_SECONDS = 0.5
_LOOKUP_SECONDS = 5.0
_REFRESH_SECONDS = 30.0
_CONCURRENT_LOOKUPS = 8

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: IpAddress) -> bool:
    """Return whether an address is public.

    Loopback, private, link-local, multicast and reserved addresses are not, in every form of IPv6
    that can carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded_ipv4(address)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address inside a mapped, 6to4, Teredo or NAT64 address, else None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_own(address: IpAddress) -> bool:
    """Return whether this machine has the address: then a program here can listen on it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def is_allowed(address: IpAddress) -> bool:
    """Return whether a node may fetch from the address: public, and not its own."""
    return is_public(address) and not is_own(address)


class OriginResolver:
    """The addresses of the origins in use.

    ``on_change(host)`` is called when the addresses of a host have changed."""

    def __init__(self, allow_private: bool, on_change: Callable[[str], None]) -> None:
        self._allow_private = allow_private
        self._on_change = on_change
        self._known: dict[str, tuple[str, ...]] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENT_LOOKUPS)

    async def get_addresses(self, host: str) -> tuple[str, ...]:
        """Return the known addresses of a host; wait half a second for a new host.

        Empty: unknown yet, or none is allowed. A certificate must not wait for a name server: a
        later answer is passed on by ``on_change``."""
        if host not in self._known:
            await asyncio.wait([self._start_lookup(host)], timeout=_WAIT_SECONDS)
        return self.known_addresses(host)

    def known_addresses(self, host: str) -> tuple[str, ...]:
        """Return the known addresses of a host without asking; empty when there are none."""
        return self._known.get(host, ())

    async def keep_fresh(self, hosts_in_use: Callable[[], set[str]]) -> None:
        """Resolve every host in use again each 30 s, and forget the others. Never returns."""
        await every(_REFRESH_SECONDS, lambda: self._refresh_hosts(hosts_in_use()))

    async def _refresh_hosts(self, hosts: set[str]) -> None:
        for unused in self._known.keys() - hosts:
            del self._known[unused]
        await asyncio.gather(*map(self._start_lookup, hosts))

    def _start_lookup(self, host: str) -> asyncio.Task[None]:
        """Return the running lookup of a host; start one when there is none."""
        if host not in self._lookups:
            self._lookups[host] = asyncio.create_task(self._resolve_host(host))
            self._lookups[host].add_done_callback(lambda _: self._lookups.pop(host, None))
        return self._lookups[host]

    async def _resolve_host(self, host: str) -> None:
        try:
            async with self._slots, asyncio.timeout(_LOOKUP_SECONDS):
                found = await _look_up(host)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.warning("origin.resolve_failed", origin=host, error=type(error).__name__)
            return
        allowed = [a for a in found if self._allow_private or is_allowed(a)]
        if len(allowed) < len(found):
            metrics.ORIGINS_REFUSED.inc(len(found) - len(allowed))
            log.warning(
                "origin.refused",
                origin=host,
                why="an address is not public, or is this node's own (rule A5)",
            )
        addresses = tuple(sorted(map(str, allowed)))
        before = self._known.get(host)
        self._known[host] = addresses
        if before != addresses:
            self._on_change(host)


async def _look_up(host: str) -> set[IpAddress]:
    with suppress(ValueError):
        return {ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))}
    rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses: set[IpAddress] = set()
    for *_, socket_address in rows:
        # A link-local IPv6 address carries its interface after a percent sign.
        text = str(socket_address[0]).partition("%")[0]
        addresses.add(ipaddress.ip_address(text))
    return addresses


def with_port(address: str, port: int) -> str:
    """Return ``address:port``, with an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
