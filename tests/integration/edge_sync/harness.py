"""edge_sync as real processes, with a real broker and PostgreSQL. Config and nodes are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send_commands
from services.edge_sync.store.bucket import KvBucket
from shared import catalogue, topology
from shared import subjects as s
from shared.contracts.edge import Bundle
from shared.contracts.queries import FleetView, ListDead, Nothing
from shared.crypto.signing import Purpose
from shared.errors import BrokerAway
from shared.messaging.rpc import ask
from tests.support.cluster import LocalCluster
from tests.support.fakes.config_and_nodes import FakeConfig, FakeNode
from tests.support.service_process import ServiceProcess
from tests.support.waiting import until

NODES = ("node-1", "node-2", "node-3")
USERS = ("config", "operator", "platform", "edge_sync", "stream_admin")
QUICK_SETTINGS = {
    "LIVE_SECONDS": "1.5",
    "LAGGING_SECONDS": "1.5",
    "SEALING_SECONDS": "1.5",
    "DIGEST_SECONDS": "0.5",
    "SEEN_SECONDS": "0.3",
    "CHECKPOINT_SECONDS": "0.2",
}


class EdgeSyncHarness:
    """The platform of one test: replicas of edge_sync, and everything around them."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.clients: dict[str, Client] = {}
        self.replicas: list[ServiceProcess] = []
        self.nodes: list[FakeNode] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.progress: list[dict[str, Any]] = []

    async def start(self) -> None:
        """Log in every user, empty streams and tables, start the fake config."""
        for user in USERS:
            self.clients[user] = await self.cluster.client(user)
        await self._empty_everything()
        self.trust = self.cluster.keys.trust()
        self.validator = self.cluster.keys.validator
        self.config = FakeConfig(self.clients["config"], self.validator)
        await self.config.start()
        self.bucket = KvBucket(self.clients["edge_sync"], s.BUCKET_BUNDLES)
        self.keyrings = KvBucket(self.clients["edge_sync"], s.BUCKET_KEYRINGS)
        await self.clients["platform"].subscribe(s.EVENTS_ALL, cb=self._keep_event)
        await self.clients["platform"].subscribe(catalogue.EDGE_PROGRESS, cb=self._keep_progress)
        await self.clients["platform"].flush()

    async def stop(self) -> None:
        """Stop nodes and replicas, and close every connection."""
        for node in self.nodes:
            await node.stop()
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        for client in self.clients.values():
            await client.close()

    async def start_replica(self, name: str = "edge_sync", **settings: str) -> ServiceProcess:
        """Start a replica and wait until it is ready. ``settings``: without their prefix."""
        environment = {}
        for key, value in (QUICK_SETTINGS | settings).items():
            environment[f"EDGE_SYNC_{key}"] = value
        replica = await self.spawn_replica(name, **environment)
        await replica.until_ready()
        return replica

    async def spawn_replica(self, name: str, **environment: object) -> ServiceProcess:
        """Start a process that stays dead when it ends.

        ``environment``: without EDGETLS_, replaces the usual settings."""
        replica = await self.cluster.start_service("edge_sync", name, revived=False, **environment)
        self.replicas.append(replica)
        return replica

    async def add_node(self, name: str, **options: Any) -> FakeNode:
        """Enrol a node, start it, and wait until it is live if it reports."""
        await self.send_commands(commands.enrol_node(self.fleet, name, datetime.now(UTC)))
        client = await self.cluster.client(f"node-{name}")
        node = FakeNode(name, client, self.trust.verifier("edge_sync"), **options)
        await node.start()
        self.nodes.append(node)
        if node.reports:
            await self.wait_for_state(name, "live")
        return node

    @property
    def fleet(self) -> FleetFile:
        """Return the operator's fleet file, read anew."""
        return self.cluster.keys.fleet

    async def send_commands(self, *fleet_commands: commands.FleetCommand) -> None:
        """Send commands as the operator."""
        await send_commands(self.clients["operator"], fleet_commands, datetime.now(UTC))

    async def show_fleet(self, timeout: float = 2) -> FleetView:
        """Ask for the fleet as the operator."""
        return await ask(
            self.clients["operator"], catalogue.RPC_FLEET_SHOW, Nothing(), timeout=timeout
        )

    async def wait_for_state(self, node: str, state: str) -> None:
        """Wait until the fleet shows a node in a state."""

        async def is_in_state() -> bool:
            try:
                view = await self.show_fleet(timeout=0.2)
            except BrokerAway:  # a replica that does not lead yet stays silent
                return False
            return any(one.node == node and one.state == state for one in view.nodes)

        await until(is_in_state, f"{node} is {state}")

    async def list_dead_letters(self) -> list[str]:
        """Return the reasons of edge_sync's dead letters."""
        query = catalogue.RPC_DEAD_LIST["edge_sync"]
        page = await ask(self.clients["operator"], query, ListDead())
        return [letter.reason for letter in page.letters]

    async def read_bundle(self, domain: str) -> Bundle | None:
        """Return the bundle that the bucket holds, its signature checked."""
        stored = await self.bucket.last(s.bundle_key(domain))
        if stored is None or not stored.body:
            return None
        return self.trust.verifier("edge_sync").open_bytes(Purpose.BUNDLE, stored.body, Bundle)

    async def wait_for_bundle(self, bundle: Bundle) -> None:
        """Wait until the bucket holds ``bundle``."""

        async def is_stored() -> bool:
            return await self.read_bundle(bundle.domain) == bundle

        await until(is_stored, f"the bucket holds {bundle.domain} at {bundle.revision}")

    def find_events(self, subject: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the bodies of the events on ``subject`` with these fields."""
        found = []
        for event_subject, body in self.events:
            if event_subject != subject:
                continue
            if all(body[key] == value for key, value in fields.items()):
                found.append(body)
        return found

    async def wait_for_event(self, subject: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event on ``subject`` with these fields and return its body."""
        found = await until(
            lambda: self.find_events(subject, **fields),
            f"{subject} with {fields} is published",
        )
        return found[0]

    async def _empty_everything(self) -> None:
        """Make streams, tables and the fleet file as on the first day."""
        await recreate_streams(self.clients["stream_admin"])
        connection = await asyncpg.connect(self.cluster.dsns["edge_sync"])
        await connection.execute("drop schema if exists public cascade; create schema public")
        await connection.close()
        fleet = self.cluster.keys.fleet
        for node in NODES:
            fleet.mark_node(node, "made")
        fleet.epochs = {1: fleet.epochs[1]}
        fleet.save()

    async def _keep_event(self, message: Msg) -> None:
        self.events.append((message.subject, json.loads(message.data)))

    async def _keep_progress(self, message: Msg) -> None:
        self.progress.append(json.loads(message.data))


async def recreate_streams(admin: Client) -> None:
    """Delete every stream and make it anew, empty."""
    js = admin.jetstream(timeout=30)
    for stream in topology.STREAMS:
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(stream.name)
    await topology.apply(js)
