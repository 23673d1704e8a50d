"""Before a revision is drawn: is the sequence past every revision that the fleet was ever given?

PostgreSQL may have been restored or failed over to an earlier state, while the nodes keep what they
hold: they would take nothing at a lower revision. So edge_sync is asked at every start and after
every change of cluster or timeline.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from nats.aio.client import Client

from services.config.store import revisions as store
from services.config.store.revisions import DatabaseTimeline
from shared import catalogue
from shared.contracts.queries import Nothing
from shared.errors import BrokerAway, DatabaseAway, Refused
from shared.faults import describe
from shared.messaging.rpc import ask
from shared.observability.health import Health
from shared.retry import every
from shared.storage.pool import Pool

log = structlog.get_logger()
CONDITION = "revision"
_RETRY_SECONDS = 0.25
_LOOK_SECONDS = 2.0


# Nodes take a bundle only at a higher revision than the one they hold. A database that came back in
# an earlier state would give numbers again that the nodes have seen, and every change up to the old
# height would be lost on them without a sign. So numbers are drawn only in a cluster and timeline
# where the sequence was moved past the fleet's highest revision, or where it was never elsewhere.
class RevisionGate:
    """Opens when revisions may be drawn, and closes when the database turns out to be another one.

    ``seconds``: how long a start waits for edge_sync before it goes on without its answer."""

    def __init__(self, pool: Pool, client: Client, health: Health, seconds: float) -> None:
        self._pool = pool
        self._client = client
        self._health = health
        self._seconds = seconds
        self._started = 0.0
        self._timeline: DatabaseTimeline | None = None
        self._asked = False
        self._opened = asyncio.Event()

    async def wait_until_open(self) -> DatabaseTimeline:
        """Wait until revisions may be drawn, and return where: drawing them elsewhere fails."""
        await self._opened.wait()
        if self._timeline is None:
            raise DatabaseAway("the revision sequence is being checked")
        return self._timeline

    async def run(self) -> None:
        """Check the sequence at the start and after every change of the database."""
        self._started = time.monotonic()
        self._health.not_ready(CONDITION, "asking edge_sync for its highest revision")
        await every(
            lambda: _LOOK_SECONDS if self._asked else _RETRY_SECONDS,
            self._check,
            on_fault=lambda error: log.info("revision.unchecked", error=describe(error)),
        )

    async def _check(self) -> None:
        timeline = await store.load_current_timeline(self._pool)
        if timeline != self._timeline:
            self._close()
        if self._asked:
            return
        try:
            answer = await ask(self._client, catalogue.RPC_EDGE_MAX_REVISION, Nothing(), timeout=1)
        except (BrokerAway, Refused):
            # A database that was never elsewhere may go on, and the sequence is checked later. A
            # restored one must not.
            waited_enough = time.monotonic() - self._started >= self._seconds
            if waited_enough:
                checked = await store.load_checked_timeline(self._pool)
                if checked in (None, timeline):
                    self._open(timeline)
            return
        last = await store.move_past(self._pool, answer.revision)
        await store.save_checked_timeline(self._pool, timeline)
        self._asked = True
        self._open(timeline)
        log.info("revision.checked", fleet=answer.revision, last=last)

    def _open(self, timeline: DatabaseTimeline) -> None:
        self._timeline = timeline
        self._opened.set()
        self._health.ready(CONDITION)

    def _close(self) -> None:
        if self._timeline is not None:
            log.warning("revision.database_changed")
        self._timeline = None
        self._asked = False
        self._opened.clear()
        self._health.not_ready(CONDITION, "asking edge_sync for its highest revision")
