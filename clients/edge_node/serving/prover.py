"""The proof that counts: a real handshake with the node's own HTTPS, after the put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clients.edge_node.nginx import handshake
from clients.edge_node.serving.preparation import Work
from shared.contracts.edge import BundleKind
from shared.errors import EdgetlsError

_AT_ONCE = 32
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.03
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - these are listened on, and asked on loopback


class UnprovenError(EdgetlsError):
    """The handshake showed something else than the bundle says."""


class Prover:
    """``leaves_of``: the leaves that a name is served with now, for the wildcard that answers for a
    removed host."""

    def __init__(self, host: str, port: int, leaves_of: Callable[[str], frozenset[str]]) -> None:
        self._place = (_ANYWHERE.get(host, host), port)
        self._leaves_of = leaves_of
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def prove(self, work: Work) -> str | None:
        """The leaf that was served, None where the handshake was refused as it must be. Raises
        UnprovenError."""
        why = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            try:
                async with self._slots:
                    why = await self._fault(work)
            except (OSError, TimeoutError) as error:
                why = f"no handshake with the node itself ({type(error).__name__})"
            if not why:
                return work.leaves[0][1] if work.leaves else None
        raise UnprovenError(why)

    async def _fault(self, work: Work) -> str:
        """Empty when the handshakes show what they must."""
        name, leaves = handshake.probe_name(work.domain), work.leaves
        if not leaves:
            served = await handshake.handshake(*self._place, name)
            right = served is None or served in self._covering(work)
            return "" if right else "a local handshake was served where it must be refused"
        for key_type, leaf in leaves if work.asks_each_type else leaves[:1]:
            served = await handshake.handshake(
                *self._place, name, key_type if work.asks_each_type else None
            )
            wanted = {leaf} if work.asks_each_type else {fingerprint for _, fingerprint in leaves}
            if served not in wanted:
                return (
                    "a local handshake was "
                    f"{'refused' if served is None else 'served another certificate'}"
                )
        return ""

    def _covering(self, work: Work) -> frozenset[str]:
        """A name that is there without HTTPS is covered by no wildcard; one that is not there may
        be."""
        if work.kind is not BundleKind.REMOVED or work.domain.startswith("*."):
            return frozenset()
        return self._leaves_of("*." + work.domain.partition(".")[2])
