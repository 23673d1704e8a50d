"""Watch nginx, and fill it from the replica when it comes back empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from clients.edge_node import metrics
from clients.edge_node.bundles.loading import current_tombstones
from clients.edge_node.bundles.replica import Replica
from clients.edge_node.bundles.versions import BundleVersions
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.serving.apply import BundleApplier
from shared.observability.health import Health

log = structlog.get_logger()
_CHECK_SECONDS = 0.1


class NginxWatcher:
    """Asks nginx for its boot id. ``on_restart`` is called for each restart that was seen."""

    def __init__(
        self,
        data_plane: DataPlane,
        replica: Replica,
        versions: BundleVersions,
        applier: BundleApplier,
        health: Health,
        on_restart: Callable[[], None],
    ) -> None:
        self._data_plane = data_plane
        self._replica = replica
        self._versions = versions
        self._applier = applier
        self._health = health
        self._on_restart = on_restart
        self._boot_id = ""

    async def run(self) -> None:
        """Watch nginx for ever. A new boot id is an empty nginx: it is filled at once."""
        while True:
            try:
                boot_id = await self._data_plane.boot_id()
                if boot_id != self._boot_id:
                    await self._fill_nginx(boot_id)
                self._applier.mark_nginx_up(boot_id)
                self._health.ready("nginx")
            except DataPlaneError as error:
                self._applier.mark_nginx_down()
                self._health.not_ready("nginx", str(error))
            await asyncio.sleep(_CHECK_SECONDS)

    async def _fill_nginx(self, boot_id: str) -> None:
        served = await self._data_plane.names_and_revisions()
        metrics.ZONE_FREE.set((await self._data_plane.zone_usage()).free_bytes)
        tombstones = current_tombstones(self._replica, self._versions)
        domains = set(self._versions.domains()) - tombstones.keys()
        # After a restart of the agent alone, nginx may still serve what was dropped since.
        await self._data_plane.remove_many(served.keys() - domains)
        if self._boot_id:
            metrics.NGINX_RESTARTS.inc()
            self._on_restart()
            log.warning("nginx.refilled", domains=len(domains))
        self._boot_id = boot_id
        self._applier.mark_nginx_up(boot_id)
        self._applier.submit_stored(domains, tombstones)
