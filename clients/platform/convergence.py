"""Waiting until every live node serves a revision, and reporting the progress.

Progress and convergence are heard live; edge_sync is asked regularly, because a connection that was
down for a moment missed what core NATS sent meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from clients.platform.connection import PlatformConnection
from shared import catalogue
from shared.contracts.codec import parse
from shared.contracts.edge import Converged, Progress
from shared.contracts.queries import Nothing, ShowConvergence
from shared.errors import Malformed, Refused, Unreachable

_ASK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class ConvergenceProgress:
    """``proven`` of ``nodes`` nodes serve the revision, ``elapsed_ms`` after the command was
    stored."""

    proven: int
    nodes: int
    elapsed_ms: float


@dataclass(frozen=True)
class ConvergedRevision:
    """Every live node serves ``revision``.

    ``slowest_ms``: from the command's stream time to the last node's proof, by edge_sync's receipt;
    None when it is not known any more."""

    domain: str
    revision: int
    nodes: int
    slowest_ms: float | None


OnProgress = Callable[[ConvergenceProgress], None]


async def wait_converged(
    connection: PlatformConnection,
    domain: str,
    revision: int,
    on_progress: OnProgress | None,
    limit: float,
) -> ConvergedRevision:
    """Wait until every live node serves ``revision`` or a later one.

    Unreachable after ``limit`` seconds, with the nodes that do not serve it yet; at once when no
    node counts."""
    client = connection.client
    waiter = _ConvergenceWaiter(domain, revision, on_progress)
    subscriptions = [
        await client.subscribe(catalogue.EDGE_PROGRESS, cb=waiter.hear_progress),
        await client.subscribe(catalogue.EVENT_EDGE_CONVERGED, cb=waiter.hear_converged),
    ]
    deadline = time.monotonic() + limit
    try:
        while (left := deadline - time.monotonic()) > 0:
            # Asked before the first wait: the revision may have converged before this call.
            converged = await waiter.ask(connection)
            if converged is not None:
                return converged
            if not (waiter.proven or waiter.missing) and await _no_node_counts(connection):
                raise Unreachable(
                    f"no node counts at present, so {domain} is live nowhere at revision "
                    f"{revision}: none is enrolled, or all are drained"
                )
            await asyncio.wait({waiter.converged}, timeout=min(_ASK_SECONDS, left))
            if waiter.converged.done():
                return waiter.converged.result()
    finally:
        waiter.converged.cancel()
        for subscription in subscriptions:
            if not client.is_closed:
                await subscription.unsubscribe()
    missing = ", ".join(waiter.missing) or "edge_sync did not name them"
    raise Unreachable(
        f"{domain} is not live everywhere at revision {revision} after {limit:g} s. Missing "
        f"nodes: {missing}"
    )


async def _no_node_counts(connection: PlatformConnection) -> bool:
    try:
        fleet = await connection.ask(catalogue.RPC_FLEET_SHOW, Nothing(), timeout=_ASK_SECONDS)
    except (Refused, Unreachable):
        return False
    return not any(node.state in ("live", "silent") for node in fleet.nodes)


class _ConvergenceWaiter:
    def __init__(self, domain: str, revision: int, on_progress: OnProgress | None) -> None:
        self.domain = domain
        self.revision = revision
        self.proven: list[str] = []
        self.missing: list[str] = []
        self.converged: asyncio.Future[ConvergedRevision] = (
            asyncio.get_running_loop().create_future()
        )
        self._on_progress = on_progress
        self._most_proven = -1

    async def hear_progress(self, message: Msg) -> None:
        """Take a report of edge_sync's progress."""
        try:
            progress = parse(Progress, message.data)
        except Malformed:
            return
        if (progress.domain, progress.revision) == (self.domain, self.revision):
            self._report_progress(progress.proven, progress.nodes, progress.elapsed_ms)

    async def hear_converged(self, message: Msg) -> None:
        """Take an event of a revision that converged."""
        try:
            event = parse(Converged, message.data)
        except Malformed:
            return
        if event.domain != self.domain or event.revision < self.revision:
            return
        if not self.converged.done():
            self._report_progress(event.nodes, event.nodes, event.slowest_ms)
            self.converged.set_result(
                ConvergedRevision(self.domain, event.revision, event.nodes, event.slowest_ms)
            )

    async def ask(self, connection: PlatformConnection) -> ConvergedRevision | None:
        """Ask edge_sync; None while the revision has not converged, or edge_sync is away."""
        question = ShowConvergence(domain=self.domain)
        try:
            view = await connection.ask(
                catalogue.RPC_EDGE_CONVERGENCE, question, timeout=_ASK_SECONDS
            )
        except (Refused, Unreachable):
            return None
        self.proven = list(view.proven)
        self.missing = list(view.missing)
        if view.converged_revision is None or view.converged_revision < self.revision:
            return None
        # A node that is missing now came after the convergence, or its digest is a second old: all
        # nodes that were live then had the revision.
        nodes = len(view.proven) + len(view.missing)
        slowest_ms = None
        if view.converged_revision == self.revision:
            slowest_ms = view.converged_ms
        return ConvergedRevision(self.domain, view.converged_revision, nodes, slowest_ms)

    def _report_progress(self, proven: int, nodes: int, elapsed_ms: float) -> None:
        """Report progress forwards only: messages may overtake each other."""
        if proven <= self._most_proven:
            return
        self._most_proven = proven
        if self._on_progress is not None:
            self._on_progress(ConvergenceProgress(proven, nodes, elapsed_ms))
