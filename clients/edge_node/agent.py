"""The node's agent: wires trust, replica, nginx, feed, report and usage, and keeps them going.

What nginx serves comes from the replica first and needs nobody else; the control plane is joined
whenever it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from clients.edge_node import metrics
from clients.edge_node.bundles.replica import Position, Replica, Tombstone, file_name, why
from clients.edge_node.bundles.verify import Order, attested, open_bundle, reopen_bundle
from clients.edge_node.bundles.versions import Desired, Version
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.nginx.process import reopen_logs
from clients.edge_node.serving.apply import Applier
from clients.edge_node.settings import NodeSettings
from clients.edge_node.sync.feed import Feed
from clients.edge_node.sync.status_reporter import Report
from clients.edge_node.together import run_together
from clients.edge_node.trust import Trusted
from clients.edge_node.usage.sender import Usage
from shared.errors import BrokerAway, EdgetlsError, Poison, SettingsError
from shared.messaging.connection import connect
from shared.observability.health import Health, serve_health

log = structlog.get_logger()
_NGINX_LOOK_SECONDS = 0.1
_LOGIN_SECONDS = 5.0
_ENROLMENT_LOOK_SECONDS = 0.2
_SAVE_SECONDS = 1.0


class Agent:
    """``run`` goes on until cancelled. Raises SettingsError where a setting cannot be used."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings, self._layout = settings, settings.layout()
        self._replica = Replica(settings.node_folder)
        self._trusted = Trusted(settings)
        self._plane = DataPlane(self._layout.run_folder)
        self._desired = Desired()
        self._report = Report(settings.node_id, self._trusted, lambda: self._usage.positions())
        self._applier = Applier(
            self._plane,
            self._replica,
            self._trusted,
            (self._layout.https_host, self._layout.https_port),
            self._report.add,
            allow_private_origins=settings.allow_private_origins,
        )
        self._feed = Feed(self._trusted, self._desired, self._applier, self._replica.position())
        self._trusted.on_change = self._applier.retry
        self._usage = Usage(
            settings.node_id, settings.node_folder, self._trusted, lambda: self._feed.flush_seconds
        )
        self._boot = ""
        self.health = Health("nginx", "certificates")

    async def run(self) -> None:
        await asyncio.to_thread(self._load)
        if len(self._desired):
            self.health.ready("certificates")
        log.info("agent.started", domains=len(self._desired), epochs=self._trusted.epochs)
        try:
            await run_together(
                self._applier.run(),
                self._applier.keep_retrying(),
                self._applier.keep_origins_fresh(),
                self._watch_nginx(),
                self._control_plane(),
                self._keep_position(),
                self._usage.keep_rotating(
                    self._settings.usage_log_bytes, lambda: reopen_logs(self._layout)
                ),
            )
        finally:
            self._save_position(self._feed.position())

    def _load(self) -> None:
        """What the replica holds, verified; a file that is not what its name says, or not signed,
        is dropped."""
        edge_sync, validator = self._trusted.ever("edge_sync"), self._trusted.ever("validator")
        for name, body in self._replica.bodies():
            try:
                domain = reopen_bundle(body).domain
                signed = open_bundle(body, domain, edge_sync)
                attested(signed.bundle, validator)
            except Poison as error:
                metrics.DROPPED.labels("replica", error.reason).inc()
                log.warning("replica.dropped", file=name, error=str(error))
                self._replica.forget(name)
                continue
            if name == file_name(domain):
                self._desired.offer(domain, Version(signed.order, signed.hash))
        for domain, tombstone in self._replica.tombstones().items():
            self._desired.offer(domain, _version(tombstone))
        # A crash, or a full disk, left the other one beside it.
        buried = self._buried()
        self._replica.dig_up(self._replica.tombstones().keys() - buried.keys())
        self._replica.unlink(buried)

    def _buried(self) -> dict[str, Tombstone]:
        """The tombstones that count: a domain that was registered again has a bundle of a higher
        order."""
        tombstones = self._replica.tombstones().items()
        return {
            domain: found
            for domain, found in tombstones
            if self._desired.get(domain) == _version(found)
        }

    async def _watch_nginx(self) -> None:
        """A new boot id is an nginx that holds nothing: it is filled from the replica at once."""
        while True:
            try:
                boot = await self._plane.boot_id()
                if boot != self._boot:
                    await self._fill(boot)
                self._applier.nginx_up(boot)
                self.health.ready("nginx")
            except DataPlaneError as error:
                self._applier.nginx_down()
                self.health.not_ready("nginx", str(error))
            await asyncio.sleep(_NGINX_LOOK_SECONDS)

    async def _fill(self, boot: str) -> None:
        served = await self._plane.names_and_revisions()
        metrics.ZONE_FREE.set((await self._plane.zone_usage()).free_bytes)
        buried = self._buried()
        known = set(self._desired.domains()) - buried.keys()
        await self._plane.remove_many(served.keys() - known)
        if self._boot:
            metrics.NGINX_RESTARTS.inc()
            self._report.nginx_restarts += 1
            log.warning("nginx.refill", domains=len(known))
        self._boot = boot
        self._applier.nginx_up(boot)
        self._applier.refill(known, buried)

    async def _control_plane(self) -> None:
        """Joins it, for ever. A node that has something to serve goes on when its login is refused,
        and says so."""
        while True:
            try:
                client = await connect(self._settings, self._settings.user, patient=True)
                try:
                    await self._session(client)
                finally:
                    with contextlib.suppress(Exception):
                        async with asyncio.timeout(2):
                            await client.close()
            except SettingsError as error:
                if not len(self._desired):
                    raise
                log.error("broker.refused", error=str(error))
            except (NatsError, EdgetlsError, OSError, TimeoutError) as error:
                log.error("broker.session_ended", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_LOGIN_SECONDS)

    async def _session(self, client: Client) -> None:
        await self._trusted.refresh(client)
        await run_together(
            self._trusted.keep_fresh(client),
            self._follow(client),
            self._usage.run(client),
            self._report.run(client, self._feed, self._applier),
            _until_closed(client),
        )

    async def _follow(self, client: Client) -> None:
        """Bundles are read once the node is enrolled: without an epoch's key it could open none of
        them."""
        if not self._trusted.epochs:
            log.warning("agent.waits_for_enrolment")
        while not self._trusted.epochs:
            self._trusted.want()
            await asyncio.sleep(_ENROLMENT_LOOK_SECONDS)
        await self._feed.run(client)

    async def _keep_position(self) -> None:
        saved = Position()
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            if self._feed.in_sync:
                self.health.ready("certificates")
            position = self._feed.position()
            if position.is_past(saved) and await asyncio.to_thread(self._save_position, position):
                saved = position

    def _save_position(self, position: Position) -> bool:
        """Blocking. A full disk ends nothing: what the node serves is in memory, and an older
        position is read from again."""
        try:
            self._replica.save_position(position)
        except OSError as error:
            if "disk" not in self.health.missing:
                log.error("disk.fails", error=why(error))
            self.health.not_ready("disk", why(error))
            return False
        self.health.ready("disk")
        return True


def _version(tombstone: Tombstone) -> Version:
    return Version(Order(tombstone.revision, tombstone.epoch), tombstone.hash)


async def _until_closed(client: Client) -> None:
    while not client.is_closed:
        await asyncio.sleep(0.5)
    raise BrokerAway("NATS closed the connection for good: is this node's login still valid?")


async def _set(stop: asyncio.Event) -> None:
    await stop.wait()


async def serve(settings: NodeSettings) -> None:
    """The agent and its health, until SIGTERM."""
    agent = Agent(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = None
    if settings.health_port is not None:
        server = await serve_health(agent.health, settings.health_host, settings.health_port)
    try:
        await run_together(agent.run(), _set(stop))
    finally:
        if server is not None:
            server.close()
