"""The node's agent: wires the rooms together and runs them until the process is stopped.

What nginx serves comes from the replica first and needs no other service; the control plane is
joined whenever it answers.
"""

from __future__ import annotations

import asyncio
import signal

import structlog
from nats.aio.client import Client

from clients.edge_node.bundles.loading import load_replica
from clients.edge_node.bundles.replica import Replica
from clients.edge_node.bundles.versions import BundleVersions
from clients.edge_node.nginx.dataplane import DataPlane
from clients.edge_node.nginx.process import reopen_logs
from clients.edge_node.serving.apply import BundleApplier
from clients.edge_node.serving.nginx_watcher import NginxWatcher
from clients.edge_node.settings import NodeSettings
from clients.edge_node.sync.control_plane import ControlPlaneConnection
from clients.edge_node.sync.feed import BundleFeed
from clients.edge_node.sync.position_saver import PositionSaver
from clients.edge_node.sync.status_reporter import StatusReporter
from clients.edge_node.trust import NodeTrust
from clients.edge_node.usage.sender import UsageSender
from shared.observability.health import Health, serve_health
from shared.retry import run_together

log = structlog.get_logger()


class Agent:
    """All parts of one node's agent. Raises SettingsError where a setting cannot be used."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._layout = settings.layout()
        self.health = Health("nginx", "certificates")
        self._replica = Replica(settings.node_folder)
        self._trust = NodeTrust(settings)
        self._versions = BundleVersions()
        self._usage = UsageSender(
            settings.node_id, settings.node_folder, self._trust, lambda: self._feed.flush_seconds
        )
        self._reporter = StatusReporter(settings.node_id, self._trust, self._usage.log_positions)
        data_plane = DataPlane(self._layout.run_folder)
        self._applier = BundleApplier(
            data_plane,
            self._replica,
            self._trust,
            self._layout.handshake_address,
            self._reporter.add_proof,
            allow_private_origins=settings.allow_private_origins,
        )
        # A bundle may have failed for want of an epoch's key or of the validator's key.
        self._trust.on_change = self._applier.retry_failed
        self._nginx_watcher = NginxWatcher(
            data_plane,
            self._replica,
            self._versions,
            self._applier,
            self.health,
            self._reporter.add_nginx_restart,
        )
        self._feed = BundleFeed(
            self._trust, self._versions, self._applier, self._replica.load_position()
        )
        self._position_saver = PositionSaver(self._feed, self._replica, self.health)
        self._control_plane = ControlPlaneConnection(
            settings,
            self._trust,
            self._versions,
            (self._trust.keep_fresh, self._follow_bundles, self._usage.run, self._report_status),
        )

    async def run(self) -> None:
        """Serve the replica, then follow the control plane, until cancelled."""
        await asyncio.to_thread(
            load_replica,
            self._replica,
            self._versions,
            self._trust.dateless_verifier("edge_sync"),
            self._trust.dateless_verifier("validator"),
        )
        if len(self._versions):
            self.health.ready("certificates")
        log.info("agent.started", domains=len(self._versions), epochs=self._trust.epochs)
        try:
            await run_together(
                self._applier.run(),
                self._applier.keep_retrying(),
                self._applier.keep_origins_fresh(),
                self._nginx_watcher.run(),
                self._control_plane.run(),
                self._position_saver.run(),
                self._usage.keep_rotating(
                    self._settings.usage_log_bytes, lambda: reopen_logs(self._layout)
                ),
            )
        finally:
            self._position_saver.save_now()

    async def _follow_bundles(self, client: Client) -> None:
        await self._trust.wait_for_enrolment()
        await self._feed.run(client)

    async def _report_status(self, client: Client) -> None:
        await self._reporter.run(client, self._feed, self._applier)


async def run_agent(settings: NodeSettings) -> None:
    """Run the agent and its health server until SIGTERM or SIGINT."""
    agent = Agent(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = None
    if settings.health_port is not None:
        server = await serve_health(agent.health, settings.health_host, settings.health_port)
    try:
        await run_together(agent.run(), _wait_for(stop))
    finally:
        if server is not None:
            server.close()


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
