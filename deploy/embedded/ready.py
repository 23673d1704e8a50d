"""Asks whether the platform works: each service by its health port, the nodes by edge_sync's view
of the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from shared.catalogue import RPC_FLEET_SHOW
from shared.contracts.codec import parse
from shared.contracts.queries import FleetView, Nothing
from shared.errors import Malformed

ASK_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.05


async def until(holds: Callable[[], Awaitable[bool]], limit: float) -> bool:
    """Asks again and again; False when it does not hold after ``limit`` seconds."""
    deadline = asyncio.get_running_loop().time() + limit
    while not await holds():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def service_fault(host: str, port: int) -> str | None:
    """None when ``/readyz`` answers 200; else what it did instead."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            status = await _get_status(host, port, "/readyz")
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return f"http://{host}:{port}/readyz does not answer"
    return None if status == 200 else f"http://{host}:{port}/readyz answers {status}"


async def fleet_view(operator: Client) -> FleetView | None:
    """None while edge_sync does not answer, or refuses."""
    try:
        answer = await operator.request(RPC_FLEET_SHOW, Nothing().encode(), timeout=ASK_SECONDS)
        return parse(FleetView, answer.data)
    except (NatsError, TimeoutError, Malformed):
        return None


def node_fault(view: FleetView | None, node: str) -> str | None:
    """None when the node is live and in sync, or was taken out by the operator; else how it is."""
    if view is None:
        return "edge_sync does not answer who is live"
    found = next((one for one in view.nodes if one.node == node), None)
    if found is None:
        return "is not enrolled"
    if found.state in ("drained", "removed"):
        return None
    if found.state != "live":
        return f"is {found.state}"
    return None if found.in_sync else "is live but not in sync"


def last_line(log: Path, most: int = 200) -> str:
    """The last thing that a process said; empty when it said nothing."""
    lines: Sequence[str] = []
    with suppress(OSError):
        lines = log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
    return lines[-1][:most] if lines else ""


async def _get_status(host: str, port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        parts = (await reader.readuntil(b"\r\n")).split()
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
