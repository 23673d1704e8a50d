"""Lead: load the state, then run the loops that only one replica may run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from services.edge_sync.metrics import LIVE_NODES, PENDING_REVISIONS
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.store.convergences import ConvergenceStore
from services.edge_sync.usecases.bundle_writer import BundleWriter
from services.edge_sync.usecases.checkpoints import CheckpointPublisher
from services.edge_sync.usecases.convergence_reports import ConvergenceReporter
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker, read_clocks
from services.edge_sync.usecases.fleet_commands import FleetCommands
from services.edge_sync.usecases.keyrings import KeyringWriter
from shared import subjects
from shared.observability.health import Health
from shared.retry import every, retry, run_together

log = structlog.get_logger()
ResultT = TypeVar("ResultT")
CHECK_PENDING_SECONDS = 0.25
CHECK_SEALING_SECONDS = 0.05
DELETE_OLD_SECONDS = 3600.0
_CONDITIONS = (
    "fleet",
    "bucket",
    "repair",
    "keyrings",
    "record",
    "seen",
    "sealing",
    f"{subjects.STREAM_EVENTS}/{subjects.DURABLE_EDGE_SYNC_DOMAINS}",
    f"{subjects.STREAM_FLEET}/{subjects.DURABLE_EDGE_SYNC_FLEET}",
)


class Leader:
    """The work of the replica that holds the lease. A standby holds it as well, and does nothing.

    ``consumers``: loops that take events and commands from streams."""

    def __init__(
        self,
        settings: EdgeSyncSettings,
        health: Health,
        *,
        commands: FleetCommands,
        keyrings: KeyringWriter,
        writer: BundleWriter,
        checkpoints: CheckpointPublisher,
        tracker: ConvergenceTracker,
        reporter: ConvergenceReporter,
        convergences: ConvergenceStore,
        consumers: Sequence[Callable[[], Coroutine[Any, Any, None]]],
    ) -> None:
        self._settings = settings
        self._health = health
        self._commands = commands
        self._keyrings = keyrings
        self._writer = writer
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._reporter = reporter
        self._convergences = convergences
        self._consumers = consumers
        self.is_leading = False

    async def run(self, fencing: int) -> None:
        """Lead until cancelled, which happens when the lease is lost.

        ``is_leading`` is set as soon as the state in memory is complete."""
        try:
            await self._load_state()
            self.is_leading = True
            # All loops end together: one that goes on without the lease would be a second leader.
            settings = self._settings
            await run_together(
                *[consume() for consume in self._consumers],
                self._repair_when_needed(),
                every(settings.edge_sync_checkpoint_seconds, self._publish_checkpoint),
                every(CHECK_PENDING_SECONDS, self._check_pending),
                every(CHECK_SEALING_SECONDS, self._update_sealing),
                every(settings.edge_sync_seen_seconds, self._reporter.save_last_seen),
                every(DELETE_OLD_SECONDS, self._delete_old),
                self._reporter.record_settled(),
                self._reporter.publish_progress(),
            )
        finally:
            self.is_leading = False
            for condition in _CONDITIONS:
                self._health.ready(condition)

    async def _load_state(self) -> None:
        # Every term starts from the database and the bucket: what this replica knew from an
        # earlier term is out of date.
        await self._retry("fleet", self._commands.load_fleet)
        await self._retry("bucket", self._writer.load_index)
        pending = await self._retry("fleet", self._convergences.load_pending)
        self._keyrings.start_term()
        self._tracker.start_term(pending, time.monotonic())
        log.info("leader.started", domains=len(self._writer.index), pending=len(pending))

    async def _repair_when_needed(self) -> None:
        """Repair both buckets at the start, when something was lost, and every few minutes."""
        repair_needed = self._writer.repair_needed
        while True:
            repair_needed.clear()
            # Keyrings first: they need only the database, and config may be away.
            await self._retry("keyrings", self._keyrings.repair_bucket)
            await self._retry("repair", self._writer.repair_bucket)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.edge_sync_repair_seconds):
                    await repair_needed.wait()

    async def _publish_checkpoint(self) -> None:
        await self._retry("bucket", self._checkpoints.publish_checkpoint)

    async def _check_pending(self) -> None:
        at = read_clocks()
        self._tracker.check_pending(at)
        LIVE_NODES.set(len(self._tracker.live_nodes(at.monotonic)))
        PENDING_REVISIONS.set(self._tracker.count_pending())

    async def _update_sealing(self) -> None:
        await self._retry("sealing", lambda: self._keyrings.update_sealing(self._live_epochs))

    def _live_epochs(self) -> dict[str, frozenset[int]]:
        return self._tracker.live_epochs(time.monotonic())

    async def _delete_old(self) -> None:
        await self._retry("record", self._convergences.delete_old)

    async def _retry(self, condition: str, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        return await retry(work, health=self._health, condition=condition)
