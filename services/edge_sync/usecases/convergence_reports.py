"""Record and publish what the convergence tracker found out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from services.edge_sync.metrics import CONVERGED_SECONDS
from services.edge_sync.store.convergences import ConvergenceStore
from services.edge_sync.store.fleet import FleetStore, LastSeen
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from services.edge_sync.usecases.fleet_commands import SOURCE
from shared import catalogue
from shared.clock import Clock
from shared.contracts.edge import Converged, Lagging
from shared.faults import describe
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from shared.observability.health import Health
from shared.retry import retry

log = structlog.get_logger()
COALESCE_SECONDS = 0.02


class ConvergenceReporter:
    """Writes converged and lagging revisions, publishes progress, writes when nodes were seen."""

    def __init__(
        self,
        tracker: ConvergenceTracker,
        convergences: ConvergenceStore,
        fleet: FleetStore,
        publisher: Publisher,
        health: Health,
        clock: Clock,
    ) -> None:
        self._tracker = tracker
        self._convergences = convergences
        self._fleet = fleet
        self._publisher = publisher
        self._health = health
        self._clock = clock

    async def record_settled(self) -> None:
        """Write each converged or lagging revision with its event, in one transaction. Never
        returns."""
        # What is lost here with the lease is found again: its row is still pending.
        while True:
            body = await self._tracker.settled.get()
            if isinstance(body, Converged):
                CONVERGED_SECONDS.observe(body.slowest_ms / 1000)
                event = self._build_event(catalogue.EVENT_EDGE_CONVERGED, body)
                save = partial(self._convergences.save_converged, body, event)
            else:
                event = self._build_event(catalogue.EVENT_EDGE_LAGGING, body)
                save = partial(self._convergences.save_lagging, body, event)
            await retry(save, health=self._health, condition="record")

    def _build_event(self, subject: str, body: Converged | Lagging) -> Outgoing:
        return outgoing(
            subject,
            body,
            source=SOURCE,
            about=body.domain,
            at=self._clock.now(),
            cause=body.command_id,
            id=derived_id(subject, body.domain, str(body.revision)),
        )

    async def publish_progress(self) -> None:
        """Publish the latest progress of each revision, at most every 20 ms. Never returns."""
        tracker = self._tracker
        while True:
            await tracker.has_progress.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            tracker.has_progress.clear()
            latest = list(tracker.progress.values())
            tracker.progress.clear()
            for body in latest:
                await self._publisher.publish_core(catalogue.EDGE_PROGRESS, body.encode())

    async def save_last_seen(self) -> None:
        """Write when the nodes that were heard since the last call were last seen."""
        await self._save_rows(self._tracker.take_unsaved())

    async def _save_rows(self, rows: Sequence[LastSeen]) -> None:
        if not rows:
            return
        try:
            await retry(
                partial(self._fleet.save_last_seen, rows), health=self._health, condition="seen"
            )
        except Exception as error:
            # A row that the database refuses must keep no other one back: write them one by one.
            if len(rows) == 1:
                log.error("last_seen.refused", node=rows[0].node, error=describe(error))
                return
            for row in rows:
                await self._save_rows([row])
