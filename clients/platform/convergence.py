"""Waiting until every live node serves a revision, with its progress; asked for where a core
message was missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from clients.platform.connection import Reach
from shared import catalogue
from shared.contracts.codec import parse
from shared.contracts.edge import Converged, Progress
from shared.contracts.queries import Nothing, ShowConvergence
from shared.errors import Malformed, Refused, Unreachable

_ASK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Progressed:
    """``proven`` of ``nodes`` nodes serve the revision, ``elapsed_ms`` after the command was
    stored."""

    proven: int
    nodes: int
    elapsed_ms: float


@dataclass(frozen=True)
class Live:
    """Every live node serves ``revision``; ``slowest_ms`` from the command's stream time to the
    last node's proof, by edge_sync's receipt (None when it is not known any more)."""

    domain: str
    revision: int
    nodes: int
    slowest_ms: float | None


OnProgress = Callable[[Progressed], None]


async def wait_converged(
    reach: Reach, domain: str, revision: int, on_progress: OnProgress | None, limit: float
) -> Live:
    """A later revision counts too. Unreachable after ``limit`` s, naming the nodes that do not
    serve it yet; at once where no node counts."""
    watch = _Watch(domain, revision, on_progress)
    subscriptions = [
        await reach.client.subscribe(catalogue.EDGE_PROGRESS, cb=watch.hear_progress),
        await reach.client.subscribe(catalogue.EVENT_EDGE_CONVERGED, cb=watch.hear_converged),
    ]
    deadline = time.monotonic() + limit
    try:
        while (left := deadline - time.monotonic()) > 0:
            if live := await watch.ask(reach):
                return live
            if not (watch.proven or watch.missing) and await _nobody_counts(reach):
                raise Unreachable(
                    f"no node counts at present, so {domain} is live nowhere at revision "
                    f"{revision}: none is enrolled, "
                    "or all are drained"
                )
            done, _ = await asyncio.wait({watch.live}, timeout=min(_ASK_SECONDS, left))
            if done:
                return watch.live.result()
    finally:
        watch.live.cancel()
        for subscription in subscriptions:
            if not reach.client.is_closed:
                await subscription.unsubscribe()
    missing = ", ".join(watch.missing) or "edge_sync did not say which"
    raise Unreachable(
        f"{domain} is not live everywhere at revision {revision} after {limit:g} s. Missing "
        f"nodes: {missing}"
    )


async def _nobody_counts(reach: Reach) -> bool:
    try:
        fleet = await reach.ask(catalogue.RPC_FLEET_SHOW, Nothing(), patience=_ASK_SECONDS)
    except (Refused, Unreachable):
        return False
    return not any(node.state in ("live", "silent") for node in fleet.nodes)


class _Watch:
    def __init__(self, domain: str, revision: int, on_progress: OnProgress | None) -> None:
        self.domain, self.revision = domain, revision
        self.proven: list[str] = []
        self.missing: list[str] = []
        self.live: asyncio.Future[Live] = asyncio.get_running_loop().create_future()
        self._tell = on_progress or (lambda progressed: None)
        self._told = -1

    async def hear_progress(self, message: Msg) -> None:
        try:
            progress = parse(Progress, message.data)
        except Malformed:
            return
        if (progress.domain, progress.revision) == (self.domain, self.revision):
            self._progress(progress.proven, progress.nodes, progress.elapsed_ms)

    async def hear_converged(self, message: Msg) -> None:
        try:
            event = parse(Converged, message.data)
        except Malformed:
            return
        if event.domain == self.domain and event.revision >= self.revision and not self.live.done():
            self._progress(event.nodes, event.nodes, event.slowest_ms)
            self.live.set_result(Live(self.domain, event.revision, event.nodes, event.slowest_ms))

    async def ask(self, reach: Reach) -> Live | None:
        try:
            view = await reach.ask(
                catalogue.RPC_EDGE_CONVERGENCE,
                ShowConvergence(domain=self.domain),
                patience=_ASK_SECONDS,
            )
        except (Refused, Unreachable):
            return None
        self.proven, self.missing = list(view.proven), list(view.missing)
        if view.converged_revision is None or view.converged_revision < self.revision:
            return None
        # What is ``missing`` now came after the convergence, or its digest is a second old: all
        # live nodes counted.
        nodes = len(view.proven) + len(view.missing)
        exact = view.converged_revision == self.revision
        return Live(
            self.domain, view.converged_revision, nodes, view.converged_ms if exact else None
        )

    def _progress(self, proven: int, nodes: int, elapsed_ms: float) -> None:
        if proven > self._told:
            self._told = proven
            self._tell(Progressed(proven, nodes, elapsed_ms))
