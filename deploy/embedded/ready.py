"""Asks whether the platform works: each service by its health port, the nodes by edge_sync's view
of the fleet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
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
_TAIL_BYTES: Final = 4000


async def wait_until(holds: Callable[[], Awaitable[bool]], limit: float) -> bool:
    """Ask until ``holds`` is true; return False when it is not after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not await holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def service_fault(host: str, port: int) -> str | None:
    """Return None when ``/readyz`` answers 200, else what it did instead."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            status = await _get_status(host, port, "/readyz")
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return f"http://{host}:{port}/readyz does not answer"
    return None if status == 200 else f"http://{host}:{port}/readyz answers {status}"


async def fleet_view(operator: Client) -> FleetView | None:
    """Return edge_sync's view of the fleet, None while it does not answer or refuses."""
    try:
        answer = await operator.request(RPC_FLEET_SHOW, Nothing().encode(), timeout=ASK_SECONDS)
        return parse(FleetView, answer.data)
    except (NatsError, TimeoutError, Malformed):
        return None


def node_fault(view: FleetView | None, node: str) -> str | None:
    """Return None when the node is live and in sync, or when the operator took it out of the fleet;
    else its state."""
    if view is None:
        return "edge_sync does not answer which nodes are live"
    for found in view.nodes:
        if found.node == node:
            break
    else:
        return "is not enrolled"
    if found.state in ("drained", "removed"):
        return None
    if found.state != "live":
        return f"is {found.state}"
    return None if found.in_sync else "is live but not in sync"


def last_line(log: Path, longest: int = 200) -> str:
    """Return the last line of a process's output; empty when there is none."""
    text = ""
    with suppress(OSError):
        text = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
    return text.rpartition("\n")[2][:longest]


async def _get_status(host: str, port: int, path: str) -> int:
    """Return the status of an HTTP answer, 0 when it is no HTTP."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        parts = (await reader.readuntil(b"\r\n")).split()
        if len(parts) > 1 and parts[1].isdigit():
            return int(parts[1])
        return 0
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
