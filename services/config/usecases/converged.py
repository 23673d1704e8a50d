"""Record which revision every node serves (rule C2)."""

from __future__ import annotations

from services.config.store import domains
from shared.contracts.edge import Converged
from shared.storage.pool import Pool


class LiveRevisions:
    """The revisions that edge_sync reports as served by every node."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record_converged(self, event: Converged) -> None:
        """Record a revision; an older one, or one of an earlier registration, changes nothing."""
        await domains.record_converged(self._pool, event.domain, event.revision)
