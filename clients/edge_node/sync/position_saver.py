"""Save the node's position in the bucket's stream; show in its health whether the disk works."""

from __future__ import annotations

import asyncio

import structlog

from clients.edge_node.bundles.replica import FeedPosition, Replica, describe_disk_error
from clients.edge_node.sync.feed import BundleFeed
from shared.observability.health import Health
from shared.retry import every

log = structlog.get_logger()
_SAVE_SECONDS = 1.0


class PositionSaver:
    """Writes the feed's position to the replica.

    A full disk ends nothing: what the node serves is in memory, and a restart reads on from an
    older position."""

    def __init__(self, feed: BundleFeed, replica: Replica, health: Health) -> None:
        self._feed = feed
        self._replica = replica
        self._health = health
        self._saved = FeedPosition()

    async def run(self) -> None:
        """Save the position each second when it is worth a write. Never returns."""
        await every(_SAVE_SECONDS, self._save_if_moved)

    async def _save_if_moved(self) -> None:
        # Once the node holds the whole set it stays ready: without a control plane it serves on.
        if self._feed.in_sync:
            self._health.ready("certificates")
        position = self._feed.settled_position()
        if not position.is_worth_saving(self._saved):
            return
        if await asyncio.to_thread(self._save, position):
            self._saved = position

    def save_now(self) -> None:
        """Save the current position. Blocking."""
        self._save(self._feed.settled_position())

    def _save(self, position: FeedPosition) -> bool:
        try:
            self._replica.save_position(position)
        except OSError as error:
            reason = describe_disk_error(error)
            if "disk" not in self._health.missing:
                log.error("position.save_failed", error=reason)
            self._health.not_ready("disk", reason)
            return False
        self._health.ready("disk")
        return True
