"""A broker with the rights of the topology and a PostgreSQL, and processes of services on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clients.fleet.keys import ensure_nkey
from deploy.embedded import nats, postgres
from deploy.embedded.keys import SIGNING_SERVICES
from deploy.embedded.ports import Ports
from shared import topology
from shared.messaging.connection import connect
from shared.messaging.nats_client import NatsClient
from shared.settings import BrokerSettings
from tests.support.service_process import ServiceProcess, program_spec
from tests.support.stream_admin import STREAM_ADMIN
from tests.support.trust import PlatformSigners
from tests.support.waiting import until


@dataclass
class LocalCluster:
    """``processes``: by name, ``nats`` and ``postgres`` among them; ``dsns``: by database.

    A broker or a PostgreSQL that is killed is started again.
    """

    folder: Path
    keys: PlatformSigners
    ports: Ports
    broker: nats.EmbeddedBroker
    database_server: postgres.EmbeddedPostgres
    processes: dict[str, ServiceProcess] = field(default_factory=dict)
    dsns: dict[str, str] = field(default_factory=dict)
    _clients: list[NatsClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The broker's address."""
        return self.broker.url

    def settings(self, user: str) -> BrokerSettings:
        """Return the login of a user of the topology, of ``node-<id>`` or of ``admin``."""
        return BrokerSettings(nats_url=self.url, nats_seed_file=self.keys.seed(user))

    async def client(self, user: str) -> NatsClient:
        """Log in; the connection is closed with the cluster."""
        client = await connect(self.settings(user), user)
        self._clients.append(client)
        return client

    async def start_broker(self) -> None:
        """Start the broker, wait until it answers and apply the topology."""
        await self._start(ServiceProcess(self.broker.prepare(), self.folder, revived=True))
        await self.until_broker_answers()
        topology_user = await connect(self.settings("topology"), "topology")
        await topology.apply(topology_user.jetstream(timeout=30))
        await topology_user.close()

    async def stop_broker(self) -> None:
        """Stop the broker, until ``start_broker``; its streams are kept."""
        await self.processes[nats.NAME].stop()

    async def until_broker_answers(self) -> None:
        """Wait until JetStream serves requests."""
        seed = self.keys.seed("topology")
        await until(lambda: nats.serves_jetstream(self.url, seed), "JetStream answers")

    async def start_postgres(self) -> None:
        """Start PostgreSQL and make its databases."""
        spec = await asyncio.to_thread(self.database_server.prepare)
        await self._start(ServiceProcess(spec, self.folder, revived=True))
        await until(self.database_server.ready, "PostgreSQL answers")
        self.dsns = await self.database_server.provision()

    async def start_service(
        self, service: str, name: str = "", *, revived: bool = True, **settings: object
    ) -> ServiceProcess:
        """Start a process of a service and return at once.

        ``name`` is another one for a second replica. ``settings`` are environment variables without
        the prefix ``EDGETLS_``, over what every process of the service needs.
        """
        name = name or service
        files, port = self.keys.files, self.ports.pick(f"{name}.health")
        own: dict[str, object] = {
            "NATS_URL": self.url,
            "NATS_SEED_FILE": files.seed(service),
            "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": files.operator_public,
            "TRUST_FILE": files.trust,
        }
        if service in self.dsns:
            own[f"{service.upper()}_DSN"] = self.dsns[service]
        if service in SIGNING_SERVICES:
            own[f"{service.upper()}_SIGNING_KEY_FILE"] = files.signer(service)
        spec = program_spec(
            name, f"services.{service}", settings=own | settings, folder=self.folder
        )
        process = ServiceProcess(spec, self.folder, health_port=port, revived=revived)
        await self._start(process)
        return process

    def kill(self, name: str) -> None:
        """Send SIGKILL to ``nats``, ``postgres`` or a process of a service."""
        self.processes[name].kill()

    async def close(self) -> None:
        """Close the connections; stop the services, then what they need."""
        for client in self._clients:
            with contextlib.suppress(OSError):  # the broker may be down
                await client.close()
        servers = [self.processes.pop(name, None) for name in (nats.NAME, postgres.NAME)]
        await asyncio.gather(*(process.stop() for process in self.processes.values()))
        await asyncio.gather(*(server.stop() for server in servers if server is not None))

    async def _start(self, process: ServiceProcess) -> None:
        await process.start()
        self.processes[process.name] = process


@asynccontextmanager
async def local_cluster(
    folder: Path,
    databases: Sequence[str] = (),
    nodes: Sequence[str] = (),
    *,
    more_users: Sequence[topology.NatsUser] = (),
) -> AsyncIterator[LocalCluster]:
    """Start a broker with the topology and, where databases are named, PostgreSQL; stop them at the
    end.

    The broker knows the users of the topology, the nodes, STREAM_ADMIN and ``more_users``.
    """
    keys = PlatformSigners.create(folder, nodes)
    ports = Ports(folder / "ports.json")
    public_keys = dict(keys.files.users)
    test_users = (STREAM_ADMIN, *more_users)
    for user in test_users:
        public_keys[user.name] = ensure_nkey(keys.files.seed(user.name))
    broker = nats.EmbeddedBroker(folder / "nats", ports.pick("nats"), public_keys, test_users)
    cluster = LocalCluster(
        folder, keys, ports, broker, postgres.EmbeddedPostgres(folder, databases)
    )
    try:
        await cluster.start_broker()
        if databases:
            await cluster.start_postgres()
        yield cluster
    finally:
        await cluster.close()
