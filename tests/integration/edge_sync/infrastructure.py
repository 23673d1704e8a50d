"""Broker and database of this folder's tests."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from clients.fleet.fleet_file import FleetFile
from clients.fleet.keys import NODE_SEED
from deploy.embedded.keys import PlatformKeys, ensure_keys, ensure_nodes
from deploy.embedded.nats import EmbeddedBroker, serves_jetstream
from deploy.embedded.ports import Ports
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.supervisor import Supervisor
from shared import topology
from shared.messaging.connection import connect
from shared.settings import BrokerSettings
from tests.support.storekeeper import STOREKEEPER, with_storekeeper
from tests.support.waiting import until

NODES = ("node-1", "node-2", "node-3")


@dataclass
class Infrastructure:
    """A broker and a database that the tests share. Their content is made anew for each test."""

    data: Path
    keys: PlatformKeys
    broker: EmbeddedBroker
    postgres: EmbeddedPostgres
    supervisor: Supervisor
    ports: Ports

    @classmethod
    async def start(cls, data: Path) -> Infrastructure:
        """Start both under the folder ``data``."""
        data.chmod(0o755)
        ports = Ports(data / "ports.json")
        keys = ensure_keys(data, data / "nats" / "edge_users.conf", datetime.now(UTC))
        ensure_nodes(keys, list(NODES))
        users = with_storekeeper(keys.users, keys.seed("storekeeper"))
        infrastructure = cls(
            data=data,
            keys=keys,
            broker=EmbeddedBroker(data / "nats", ports.pick("nats"), users, (STOREKEEPER,)),
            postgres=EmbeddedPostgres(data, ["edge_sync"]),
            supervisor=Supervisor(data),
            ports=ports,
        )
        await infrastructure.supervisor.start(infrastructure.broker.prepare())
        await infrastructure.supervisor.start(infrastructure.postgres.prepare())
        await until(infrastructure.postgres.ready, "PostgreSQL starts", limit=30)
        await infrastructure.postgres.provision()
        await infrastructure.wait_for_broker()
        return infrastructure

    async def wait_for_broker(self) -> None:
        """Wait until the broker serves JetStream."""
        await until(
            lambda: serves_jetstream(self.broker.url, self.keys.seed("topology")),
            "NATS starts",
            limit=30,
        )

    async def login(self, user: str) -> Client:
        """Connect as a user of the topology."""
        return await connect(self._settings(self.keys.seed(user)), user)

    async def login_node(self, node: str) -> Client:
        """Connect as a node."""
        seed = self.keys.node_folder(node) / NODE_SEED
        return await connect(self._settings(seed), f"node-{node}")

    def _settings(self, seed: Path) -> BrokerSettings:
        return BrokerSettings(nats_url=self.broker.url, nats_seed_file=seed)

    @property
    def dsn(self) -> str:
        """Return the DSN of edge_sync's database."""
        return self.postgres.dsn("edge_sync", "edge_sync")

    async def empty_all(self, storekeeper: Client) -> None:
        """Make streams, tables and the fleet file as on the first day."""
        await recreate_streams(storekeeper)
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("drop schema if exists public cascade; create schema public")
        await connection.close()
        fleet = FleetFile.read(self.keys.fleet_file)
        for node in NODES:
            fleet.mark_node(node, "made")
        fleet.epochs = {1: fleet.epochs[1]}
        fleet.save()


async def recreate_streams(storekeeper: Client) -> None:
    """Delete every stream and make it anew, empty."""
    js = storekeeper.jetstream(timeout=10)
    for stream in topology.STREAMS:
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(stream.name)
    await topology.apply(js)
