"""A real broker with the rendered rights, and a real PostgreSQL, for tests of what depends on
them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clients.fleet.keys import ensure_nkey
from deploy.embedded.nats import EmbeddedBroker, serves_jetstream
from deploy.embedded.ports import Ports
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.supervisor import Supervisor
from shared import topology
from shared.messaging.connection import connect
from shared.messaging.nats_client import NatsClient
from shared.nats_config import render_edge_users
from shared.private_files import private_folder
from shared.settings import BrokerSettings
from tests.support.stream_admin import STREAM_ADMIN, with_stream_admin
from tests.support.waiting import until


@dataclass
class Backend:
    """``dsns`` by database; ``settings(user)``: of any user of the topology, ``node-<id>`` or
    ``admin``."""

    folder: Path
    url: str
    dsns: dict[str, str]
    supervisor: Supervisor
    _clients: list[NatsClient] = field(default_factory=list)

    def settings(self, user: str) -> BrokerSettings:
        return BrokerSettings(nats_url=self.url, nats_seed_file=self.folder / "keys" / f"{user}.nk")

    async def client(self, user: str) -> NatsClient:
        client = await connect(self.settings(user), user)
        self._clients.append(client)
        return client

    def kill(self, name: str) -> None:
        """``nats`` or ``postgres``, -9; the supervisor starts it again."""
        self.supervisor.kill(name, signal.SIGKILL)

    async def close(self) -> None:
        for client in self._clients:
            with contextlib.suppress(OSError):  # its broker may be down
                await client.close()
        await self.supervisor.stop()


@asynccontextmanager
async def backend(
    folder: Path, databases: Sequence[str] = ("config",), nodes: Sequence[str] = ()
) -> AsyncIterator[Backend]:
    """Broker and PostgreSQL up, topology applied; stopped at the end."""
    keys = private_folder(folder / "keys")
    names = [user.name for user in topology.USERS] + [f"node-{node}" for node in nodes]
    public = {name: ensure_nkey(keys / f"{name}.nk") for name in names}
    broker = EmbeddedBroker(
        folder / "nats",
        Ports(folder / "ports.json").pick("nats"),
        with_stream_admin(public, keys / "stream_admin.nk"),
        (STREAM_ADMIN,),
    )
    supervisor = Supervisor(folder)
    spec = broker.prepare()
    broker.users_file.write_text(
        render_edge_users({node: public[f"node-{node}"] for node in nodes})
    )
    await supervisor.start(spec)
    dsns: dict[str, str] = {}
    if databases:
        postgres = EmbeddedPostgres(folder, databases)
        await supervisor.start(postgres.prepare())
        await until(postgres.ready, "PostgreSQL answers", limit=30)
        dsns = await postgres.provision()
    await until(
        lambda: serves_jetstream(broker.url, keys / "topology.nk"), "JetStream answers", limit=30
    )
    made = Backend(folder, broker.url, dsns, supervisor)
    try:
        admin = await made.client("topology")
        await topology.apply(admin.jetstream(timeout=10))
        yield made
    finally:
        await made.close()
