"""Bring changes of domains to the nodes: on each event, put the bundle that config wants now."""

from __future__ import annotations

import asyncio
import time

import structlog

from services.edge_sync.domain.bundles import DesiredBundle
from services.edge_sync.domain.convergence import PendingRevision
from services.edge_sync.store.convergences import ConvergenceStore
from services.edge_sync.usecases.bundle_writer import BundleWriter
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from shared.contracts.codec import parse
from shared.contracts.domains import DomainChanged
from shared.errors import Poison
from shared.messaging.delivery import Delivery

log = structlog.get_logger()


class DomainChanges:
    """Handles https.event.domain.changed.v1."""

    def __init__(
        self, store: ConvergenceStore, writer: BundleWriter, tracker: ConvergenceTracker
    ) -> None:
        self._store = store
        self._writer = writer
        self._tracker = tracker

    async def handle(self, delivery: Delivery) -> None:
        """Put the domain's bundle and track its revision until it has converged.

        Poison when no node may serve the bundle."""
        change = parse(DomainChanged, delivery.body)
        pending, desired = await self._open_and_fetch(change)
        if desired is None or desired.revision < change.revision:
            # Config's database was restored from a copy: this revision never comes again.
            log.warning("change.unknown", domain=change.domain, revision=change.revision)
            await self._store.delete_revision(change.domain, change.revision)
            return
        if pending is not None:
            pending = self._tracker.track_revision(pending)
        # Before the put: the fastest node proves the revision before the PubAck is here.
        self._tracker.expect_bundle(desired)
        stored = await self._writer.put_bundle(desired)
        if pending is not None:
            pending.note_put(stored.sequence, time.monotonic())

    async def _open_and_fetch(
        self, change: DomainChanged
    ) -> tuple[PendingRevision | None, DesiredBundle | None]:
        """Open the revision's row and ask config for the bundle, at once to save time."""
        try:
            return await asyncio.gather(
                self._store.open_revision(change), self._writer.fetch_desired(change.domain)
            )
        except Poison:
            # No node ever gets this revision. It is tracked all the same, so that it is reported
            # as lagging.
            refused = await self._store.open_revision(change)
            if refused is not None:
                self._tracker.track_revision(refused)
            raise
