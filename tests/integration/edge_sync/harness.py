"""edge_sync as real processes, with a real broker and PostgreSQL. Config and nodes are fakes."""

from __future__ import annotations

import asyncio
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
from clients.fleet.publish import send_commands
from deploy.embedded.launch import base_environment
from deploy.embedded.ports import HOST
from services.edge_sync.store.bucket import KvBucket
from shared import catalogue
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle
from shared.contracts.queries import FleetView, ListDead, Nothing
from shared.crypto.signing import Purpose, Trust
from shared.errors import BrokerAway
from shared.messaging.rpc import ask
from shared.runtime import read_signer
from tests.integration.edge_sync.fakes import FakeConfig, FakeNode
from tests.integration.edge_sync.infrastructure import Infrastructure
from tests.support.waiting import until

USERS = ("config", "operator", "platform", "edge_sync", "storekeeper")
QUICK_SETTINGS = {
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

    async def find_missing(self) -> dict[str, str] | None:
        """Return the conditions that it is not ready for, None when it does not answer."""

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
            missing: dict[str, str] = json.loads(await asyncio.to_thread(read))["missing"]
        except OSError:
            return None
        return missing

    async def is_unready(self) -> bool:
        """Return whether it answers that a condition is missing."""
        return bool(await self.find_missing())

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """End it with SIGTERM."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 15)


class EdgeSyncStage:
    """The platform of one test: replicas of edge_sync, and everything around them."""

    def __init__(self, infrastructure: Infrastructure) -> None:
        self.infrastructure = infrastructure
        self.clients: dict[str, Client] = {}
        self.replicas: list[Replica] = []
        self.nodes: list[FakeNode] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.progress: list[dict[str, Any]] = []

    async def start(self) -> None:
        """Log in every user, empty streams and tables, start the fake config."""
        infrastructure = self.infrastructure
        keys = infrastructure.keys
        for user in USERS:
            self.clients[user] = await infrastructure.login(user)
        await infrastructure.empty_all(self.clients["storekeeper"])
        self.validator = read_signer(keys.signer("validator"), "validator")
        operator_key = keys.operator_public.read_text().strip()
        trust = parse(Signed, keys.trust.read_bytes())
        self.trust = Trust.read(operator_key, trust, datetime.now(UTC))
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

    async def start_replica(self, name: str = "edge_sync", **settings: str) -> Replica:
        """Start a replica and wait until it is ready. ``settings``: without their prefix."""
        environment = {}
        for key, value in (QUICK_SETTINGS | settings).items():
            environment[f"EDGE_SYNC_{key}"] = value
        replica = await self.spawn_replica(name, **environment)
        self.replicas.append(replica)
        await self.wait_until_ready(replica)
        return replica

    async def spawn_replica(self, name: str, **environment: object) -> Replica:
        """Start a process. ``environment``: without EDGETLS_, replaces the usual settings."""
        infrastructure = self.infrastructure
        port = infrastructure.ports.pick(f"{name}-health")
        settings: dict[str, object] = {
            "NATS_URL": infrastructure.broker.url,
            "NATS_SEED_FILE": infrastructure.keys.seed("edge_sync"),
            "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": infrastructure.keys.operator_public,
            "TRUST_FILE": infrastructure.keys.trust,
            "EDGE_SYNC_DSN": infrastructure.dsn,
            "EDGE_SYNC_SIGNING_KEY_FILE": infrastructure.keys.signer("edge_sync"),
        }
        variables = base_environment()
        for key, value in (settings | environment).items():
            variables[f"EDGETLS_{key}"] = str(value)
        log = infrastructure.data / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.edge_sync",
                env=variables,
                stdout=file,
                stderr=file,
            )
        return Replica(name, process, port, log)

    async def wait_until_ready(self, replica: Replica, limit: float = 15) -> None:
        """Wait until no condition is missing; fail at once when the process has ended."""

        async def is_ready() -> bool:
            assert replica.process.returncode is None, replica.log.read_text()[-2000:]
            return await replica.find_missing() == {}

        await until(is_ready, f"{replica.name} is ready", limit=limit)

    async def add_node(self, name: str, **options: Any) -> FakeNode:
        """Enrol a node, start it, and wait until it is live if it reports."""
        await self.send_commands(commands.enrol_node(self.fleet, name, datetime.now(UTC)))
        client = await self.infrastructure.login_node(name)
        node = FakeNode(name, client, self.trust.verifier("edge_sync"), **options)
        await node.start()
        self.nodes.append(node)
        if node.reports:
            await self.wait_for_state(name, "live")
        return node

    @property
    def fleet(self) -> FleetFile:
        """Return the operator's fleet file, read anew."""
        return FleetFile.read(self.infrastructure.keys.fleet_file)

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

    async def wait_for_bundle(self, bundle: Bundle, limit: float = 10) -> None:
        """Wait until the bucket holds ``bundle``."""

        async def is_stored() -> bool:
            return await self.read_bundle(bundle.domain) == bundle

        await until(
            is_stored, f"the bucket holds {bundle.domain} at {bundle.revision}", limit=limit
        )

    def find_events(self, subject: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the bodies of the events on ``subject`` with these fields."""
        found = []
        for event_subject, body in self.events:
            if event_subject != subject:
                continue
            if all(body[key] == value for key, value in fields.items()):
                found.append(body)
        return found

    async def wait_for_event(
        self, subject: str, limit: float = 10, **fields: Any
    ) -> dict[str, Any]:
        """Wait for an event on ``subject`` with these fields and return its body."""
        found = await until(
            lambda: self.find_events(subject, **fields),
            f"{subject} with {fields} is published",
            limit=limit,
        )
        return found[0]

    async def _keep_event(self, message: Msg) -> None:
        self.events.append((message.subject, json.loads(message.data)))

    async def _keep_progress(self, message: Msg) -> None:
        self.progress.append(json.loads(message.data))
