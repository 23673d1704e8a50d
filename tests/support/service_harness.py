"""What the tests of one service share: a cluster, connections, its database and its processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import asyncpg

from shared import catalogue
from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.base import Contract
from shared.contracts.queries import DeadLetter, ListDead
from shared.messaging.cloudevents import outgoing
from shared.messaging.nats_client import NatsClient
from shared.messaging.publisher import Publisher
from shared.messaging.rpc import ask
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.service_process import ServiceProcess
from tests.support.waiting import until


class ServiceHarness:
    """Everything real that a service runs on; the test plays the users in ``clients``.

    Nothing is reset between the tests that share one: each takes new names. ``replicas``: the
    service's processes by name.
    """

    service: ClassVar[str]
    users: ClassVar[Sequence[str]]

    def __init__(
        self,
        cluster: LocalCluster,
        database: asyncpg.Pool[asyncpg.Record],
        clients: dict[str, NatsClient],
    ) -> None:
        self.cluster = cluster
        self.database = database
        self.clients = clients
        self.replicas: dict[str, ServiceProcess] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, nodes: Sequence[str] = ()) -> AsyncIterator[Self]:
        """Start a broker and a PostgreSQL; start no process of the service."""
        async with local_cluster(folder, [cls.service], nodes) as cluster:
            clients = {user: await cluster.client(user) for user in cls.users}
            dsn = cluster.dsns[cls.service]
            async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as database:
                yield cls(cluster, database, clients)

    async def publish(
        self, user: str, subject: str, body: Contract, *, id: str | None = None, dedupe: bool = True
    ) -> str:
        """Publish a message as ``user`` and return its id."""
        message = outgoing(
            subject, body, source=user, about="x", at=datetime.now(UTC), id=id, dedupe=dedupe
        )
        await Publisher(self.clients[user]).publish(message)
        return message.id

    async def publish_raw(
        self, user: str, subject: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Publish bytes that need not be a message of the product."""
        jetstream = self.clients[user].jetstream(timeout=30)
        await jetstream.publish(subject, body, headers=headers)

    async def ask_as(
        self, user: str, query: Query[QuestionT, AnswerT], question: QuestionT
    ) -> AnswerT:
        return await ask(self.clients[user], query, question)

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters that the service keeps."""
        query = catalogue.RPC_DEAD_LIST[self.service]
        return (await self.ask_as("operator", query, ListDead(limit=500))).letters

    async def until_dead_letter(self, text: str) -> DeadLetter:
        """Wait for a dead letter that has ``text`` in its reason or its headers."""

        async def found() -> DeadLetter | None:
            for letter in await self.dead_letters():
                if text in f"{letter.reason} {letter.headers}":
                    return letter
            return None

        letter = await until(found, f"a dead letter has {text}")
        assert letter is not None
        return letter

    def default_settings(self) -> dict[str, Any]:
        """Return what every process of the service gets beside its addresses and keys."""
        return {}

    async def start(self, name: str = "", **settings: Any) -> ServiceProcess:
        """Start a process that is started again when it dies; return when it is ready.

        ``settings``: environment variables without ``EDGETLS_``.
        """
        process = await self.cluster.start_service(
            self.service, name, **(self.default_settings() | settings)
        )
        self.replicas[process.name] = process
        await process.until_ready()
        return process

    async def ready(self, name: str = "") -> None:
        """Wait until a process is ready."""
        await self.replicas[name or self.service].until_ready()

    def kill(self, name: str = "") -> None:
        """Kill a process, which is started again."""
        self.replicas[name or self.service].kill()
