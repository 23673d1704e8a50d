"""Before a revision is drawn: is the sequence past everything that the fleet has ever been given?

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
from services.config.store.revisions import Home
from shared import catalogue
from shared.contracts.queries import Nothing
from shared.errors import BrokerAway, DatabaseAway, Refused
from shared.faults import describe, is_transient
from shared.messaging.rpc import ask
from shared.observability.health import Health
from shared.storage.pool import Pool

log = structlog.get_logger()
CONDITION = "revision"
_RETRY_SECONDS, _LOOK_SECONDS = 0.25, 2.0


class Revisions:
    """``home()`` waits until numbers may be drawn and says where; run() keeps that true."""

    def __init__(self, pool: Pool, client: Client, health: Health, patience: float) -> None:
        self._pool, self._client, self._health, self._patience = pool, client, health, patience
        self._home: Home | None = None
        self._asked = False
        self._open = asyncio.Event()

    async def home(self) -> Home:
        """For store.revisions.draw(), which refuses when the cluster changed since."""
        await self._open.wait()
        if self._home is None:
            raise DatabaseAway("the revision sequence is being checked")
        return self._home

    async def run(self) -> None:
        started = time.monotonic()
        self._health.not_ready(CONDITION, "asking edge_sync for its highest revision")
        while True:
            try:
                await self._look(time.monotonic() - started >= self._patience)
            except Exception as error:
                if not is_transient(error):
                    raise
                log.info("revision.unchecked", error=describe(error))
            await asyncio.sleep(_LOOK_SECONDS if self._asked else _RETRY_SECONDS)

    async def _look(self, patience_is_over: bool) -> None:
        home = await store.current_home(self._pool)
        if home != self._home:
            self._close()
        if self._asked:
            return
        try:
            answer = await ask(self._client, catalogue.RPC_EDGE_MAX_REVISION, Nothing(), timeout=1)
        except (BrokerAway, Refused):
            # A database that was never elsewhere may go on and is checked later; a restored one
            # must not.
            if patience_is_over and await store.kept_home(self._pool) in (None, home):
                self._let(home)
            return
        last = await store.move_past(self._pool, answer.revision)
        await store.keep_home(self._pool, home)
        self._asked = True
        self._let(home)
        log.info("revision.checked", fleet=answer.revision, last=last)

    def _let(self, home: Home) -> None:
        self._home = home
        self._open.set()
        self._health.ready(CONDITION)

    def _close(self) -> None:
        if self._home is not None:
            log.warning("revision.home_changed")
        self._home, self._asked = None, False
        self._open.clear()
        self._health.not_ready(CONDITION, "asking edge_sync for its highest revision")
