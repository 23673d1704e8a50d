"""Broker and database of the folder's tests."""

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
class Ground:
    """Broker and database, shared by the tests; everything in them is made anew for each."""

    data: Path
    keys: PlatformKeys
    broker: EmbeddedBroker
    postgres: EmbeddedPostgres
    supervisor: Supervisor
    ports: Ports

    @classmethod
    async def start(cls, data: Path) -> Ground:
        data.chmod(0o755)
        ports = Ports(data / "ports.json")
        keys = ensure_keys(data, data / "nats" / "edge_users.conf", datetime.now(UTC))
        ensure_nodes(keys, list(NODES))
        ground = cls(
            data,
            keys,
            EmbeddedBroker(
                data / "nats",
                ports.pick("nats"),
                with_storekeeper(keys.users, keys.seed("storekeeper")),
                (STOREKEEPER,),
            ),
            EmbeddedPostgres(data, ["edge_sync"]),
            Supervisor(data),
            ports,
        )
        await ground.supervisor.start(ground.broker.prepare())
        await ground.supervisor.start(ground.postgres.prepare())
        await until(ground.postgres.ready, "PostgreSQL starts", limit=30)
        await ground.postgres.provision()
        await ground.broker_ready()
        return ground

    async def broker_ready(self) -> None:
        await until(
            lambda: serves_jetstream(self.broker.url, self.keys.seed("topology")),
            "NATS starts",
            limit=30,
        )

    async def login(self, user: str) -> Client:
        return await connect(self._settings(self.keys.seed(user)), user)

    async def login_node(self, node: str) -> Client:
        return await connect(
            self._settings(self.keys.node_folder(node) / NODE_SEED), f"node-{node}"
        )

    def _settings(self, seed: Path) -> BrokerSettings:
        return BrokerSettings(nats_url=self.broker.url, nats_seed_file=seed)

    @property
    def dsn(self) -> str:
        return self.postgres.dsn("edge_sync", "edge_sync")

    async def empty(self, storekeeper: Client) -> None:
        """Streams and tables as on the first day."""
        await lose_streams(storekeeper)
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("drop schema if exists public cascade; create schema public")
        await connection.close()
        fleet = FleetFile.read(self.keys.fleet_file)
        for node in NODES:
            fleet.mark(node, "made")
        fleet.epochs = {1: fleet.epochs[1]}
        fleet.save()


async def lose_streams(storekeeper: Client, *names: str) -> None:
    """Deletes the streams (all by default) and makes them anew, empty."""
    js = storekeeper.jetstream(timeout=10)
    for name in names or tuple(stream.name for stream in topology.STREAMS):
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(name)
    await topology.apply(js)
