"""Prove a bundle by a real TLS handshake with the node's own HTTPS, after the put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clients.edge_node.nginx.handshake import get_served_leaf, probe_name
from clients.edge_node.serving.preparation import PreparedBundle
from shared.contracts.edge import BundleKind
from shared.errors import EdgetlsError

_CONCURRENT_HANDSHAKES = 32
_ATTEMPTS = 3
_RETRY_SECONDS = 0.03
# Addresses that mean all interfaces: nginx listens on them, the handshake uses loopback.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


class UnprovenError(EdgetlsError):
    """The handshake showed something else than the bundle demands."""


class HandshakeProver:
    """Makes the handshakes.

    ``leaves_of`` returns the leaves that a name is served with now, for the wildcard that answers
    for a removed host."""

    def __init__(self, host: str, port: int, leaves_of: Callable[[str], frozenset[str]]) -> None:
        self._host = _LOOPBACK_OF.get(host, host)
        self._port = port
        self._leaves_of = leaves_of
        self._slots = asyncio.Semaphore(_CONCURRENT_HANDSHAKES)

    async def prove(self, prepared: PreparedBundle) -> str | None:
        """Return the leaf that was served, None where the handshake was refused as it must be.

        Raises UnprovenError after three attempts."""
        fault = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_RETRY_SECONDS)
            try:
                async with self._slots:
                    fault = await self._find_fault(prepared)
            except (OSError, TimeoutError) as error:
                fault = f"no handshake with the node itself ({type(error).__name__})"
            if not fault:
                return prepared.leaves[0][1] if prepared.leaves else None
        raise UnprovenError(fault)

    async def _find_fault(self, prepared: PreparedBundle) -> str:
        """Return a sentence on the first wrong handshake, empty when all are right."""
        name = probe_name(prepared.domain)
        if not prepared.leaves:
            served = await get_served_leaf(self._host, self._port, name)
            if served is None or served in self._wildcard_leaves(prepared):
                return ""
            return "a local handshake was served where it must be refused"
        # Without a key type the client may get either leaf.
        if not prepared.proves_each_key_type:
            served = await get_served_leaf(self._host, self._port, name)
            return _compare_leaf(served, {leaf for _, leaf in prepared.leaves})
        for key_type, leaf in prepared.leaves:
            served = await get_served_leaf(self._host, self._port, name, key_type)
            fault = _compare_leaf(served, {leaf})
            if fault:
                return fault
        return ""

    def _wildcard_leaves(self, prepared: PreparedBundle) -> frozenset[str]:
        """Return the leaves of the wildcard that answers for a removed host.

        A host that is in nginx without HTTPS is covered by no wildcard; a removed one may be."""
        if prepared.kind is not BundleKind.REMOVED or prepared.domain.startswith("*."):
            return frozenset()
        return self._leaves_of("*." + prepared.domain.partition(".")[2])


def _compare_leaf(served: str | None, wanted: set[str]) -> str:
    if served is None:
        return "a local handshake was refused"
    if served not in wanted:
        return "a local handshake was served another certificate"
    return ""
