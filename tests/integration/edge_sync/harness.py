"""edge_sync as processes, with a real broker and PostgreSQL; config and the nodes are played by the
test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send
from deploy.embedded.launch import base_environment
from deploy.embedded.ports import HOST
from services.edge_sync.store.bucket import Bucket
from shared import catalogue
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle
from shared.contracts.queries import FleetView, Nothing
from shared.crypto.signing import Purpose, Signer, Trust
from shared.errors import BrokerAway
from shared.messaging.rpc import ask
from tests.integration.edge_sync.ground import Ground
from tests.integration.edge_sync.played import FakeConfig, FakeNode
from tests.support.waiting import until

USERS = ("config", "operator", "platform", "edge_sync", "storekeeper")
QUICK = {
    "LIVE_SECONDS": "1.5",
    "LAGGING_SECONDS": "1.5",
    "SEALING_SECONDS": "1.5",
    "DIGEST_SECONDS": "0.5",
    "SEEN_SECONDS": "0.3",
    "CHECKPOINT_SECONDS": "0.2",
}


@dataclass
class Replica:
    """One process of edge_sync."""

    name: str
    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def missing(self) -> dict[str, str] | None:
        """What it is not ready for; None when it does not answer."""

        def read() -> bytes:
            try:
                with urllib.request.urlopen(
                    f"http://{HOST}:{self.port}/readyz", timeout=2
                ) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.read()

        try:
            found: dict[str, str] = json.loads(await asyncio.to_thread(read))["missing"]
        except OSError:
            return None
        return found

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 15)


class World:
    """One test's platform."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.clients: dict[str, Client] = {}
        self.replicas: list[Replica] = []
        self.nodes: list[FakeNode] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.progress: list[dict[str, Any]] = []

    async def start(self) -> None:
        ground = self.ground
        for user in USERS:
            self.clients[user] = await ground.login(user)
        await ground.empty(self.clients["storekeeper"])
        self.validator = _signer(ground.keys.signer("validator"))
        operator_key = ground.keys.operator_public.read_text().strip()
        trust = parse(Signed, ground.keys.trust.read_bytes())
        self.trust = Trust.read(operator_key, trust, datetime.now(UTC))
        self.config = FakeConfig(self.clients["config"], self.validator)
        await self.config.start()
        self.bucket = Bucket(self.clients["edge_sync"], s.BUCKET_BUNDLES)
        self.keyrings = Bucket(self.clients["edge_sync"], s.BUCKET_KEYRINGS)
        await self.clients["platform"].subscribe(s.EVENTS_ALL, cb=self._event)
        await self.clients["platform"].subscribe(catalogue.EDGE_PROGRESS, cb=self._progress)
        await self.clients["platform"].flush()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        for client in self.clients.values():
            await client.close()

    async def run(self, name: str = "edge_sync", **settings: str) -> Replica:
        """A replica that is ready. ``settings``: without their prefix, over the quick ones."""
        replica = await self.spawn(
            name, **{f"EDGE_SYNC_{key}": value for key, value in (QUICK | settings).items()}
        )
        self.replicas.append(replica)
        await self.ready(replica)
        return replica

    async def spawn(self, name: str, **environment: object) -> Replica:
        """A process of the service. ``environment``: without EDGETLS_, over the usual."""
        ground = self.ground
        port = ground.ports.pick(f"{name}-health")
        own: dict[str, object] = {
            "NATS_URL": ground.broker.url,
            "NATS_SEED_FILE": ground.keys.seed("edge_sync"),
            "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": ground.keys.operator_public,
            "TRUST_FILE": ground.keys.trust,
            "EDGE_SYNC_DSN": ground.dsn,
            "EDGE_SYNC_SIGNING_KEY_FILE": ground.keys.signer("edge_sync"),
        }
        told = {f"EDGETLS_{key}": str(value) for key, value in (own | environment).items()}
        log = ground.data / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.edge_sync",
                env=base_environment() | told,
                stdout=file,
                stderr=file,
            )
        return Replica(name, process, port, log)

    async def ready(self, replica: Replica, limit: float = 15) -> None:
        async def is_ready() -> bool:
            assert replica.process.returncode is None, replica.log.read_text()[-2000:]
            return await replica.missing() == {}

        await until(is_ready, f"{replica.name} is ready", limit=limit)

    async def node(self, name: str, **options: Any) -> FakeNode:
        """Enrolled and reporting."""
        await self.order(commands.enrol(self.fleet, name, datetime.now(UTC)))
        node = FakeNode(
            name, await self.ground.login_node(name), self.trust.verifier("edge_sync"), **options
        )
        await node.start()
        self.nodes.append(node)
        if node.reports:
            await self.until_state(name, "live")
        return node

    @property
    def fleet(self) -> FleetFile:
        return FleetFile.read(self.ground.keys.fleet_file)

    async def order(self, *orders: commands.Command) -> None:
        """As the operator."""
        await send(self.clients["operator"], orders, datetime.now(UTC))

    async def view(self, timeout: float = 2) -> FleetView:
        return await ask(
            self.clients["operator"],
            catalogue.RPC_FLEET_SHOW,
            Nothing(),
            timeout=timeout,
        )

    async def until_state(self, node: str, state: str) -> None:
        async def holds() -> bool:
            with contextlib.suppress(BrokerAway):  # a replica that does not lead yet stays silent
                return any(
                    one.node == node and one.state == state
                    for one in (await self.view(timeout=0.2)).nodes
                )
            return False

        await until(holds, f"{node} is {state}")

    async def held(self, domain: str) -> Bundle | None:
        """What the bucket holds, its signature checked."""
        stored = await self.bucket.last(s.bundle_key(domain))
        if stored is None or not stored.body:
            return None
        return self.trust.verifier("edge_sync").open_bytes(Purpose.BUNDLE, stored.body, Bundle)

    async def until_held(self, bundle: Bundle, limit: float = 10) -> None:
        async def holds() -> bool:
            return await self.held(bundle.domain) == bundle

        await until(holds, f"the bucket holds {bundle.domain} at {bundle.revision}", limit=limit)

    def told(self, subject: str, **fields: Any) -> list[dict[str, Any]]:
        """Bodies of events on ``subject`` with these fields."""
        found = [body for on, body in self.events if on == subject]
        return [body for body in found if all(body[key] == value for key, value in fields.items())]

    async def until_told(self, subject: str, limit: float = 10, **fields: Any) -> dict[str, Any]:
        found = await until(
            lambda: self.told(subject, **fields), f"{subject} with {fields} is told", limit=limit
        )
        return found[0]

    async def _event(self, message: Msg) -> None:
        self.events.append((message.subject, json.loads(message.data)))

    async def _progress(self, message: Msg) -> None:
        self.progress.append(json.loads(message.data))


def _signer(file: Path) -> Signer:
    key_id, text = file.read_text().split()
    return Signer(key_id, text)
