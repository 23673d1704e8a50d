"""Delete rows that are over 35 days old: ids of commands, and tombstones."""

from __future__ import annotations

from services.config.store import domains
from shared.storage.inbox import Inbox
from shared.storage.pool import Pool


class Cleanup:
    """Forgets what no redelivery and no node can ask for any more."""

    def __init__(self, pool: Pool, box: Inbox) -> None:
        self._pool = pool
        self._box = box

    async def delete_old_rows(self) -> None:
        """Forget ids of commands that ran, and domains that were removed, 35 days ago."""
        await self._box.delete_old_messages()
        await domains.delete_old_tombstones(self._pool)
