"""edge_sync as processes, with a real broker and PostgreSQL; config and the nodes are played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.keys import NODE_SEED
from clients.fleet.publish import send
from deploy.embedded.keys import Keys, ensure_keys, ensure_nodes
from deploy.embedded.nats import Broker, serves_jetstream
from deploy.embedded.ports import HOST, Ports
from deploy.embedded.postgres import Postgres
from deploy.embedded.supervisor import Supervisor, base_environment
from services.edge_sync.bucket import Bucket
from shared import subjects as s
from shared import topology
from shared.contracts.base import SealedKey, Signed
from shared.contracts.domains import DomainChanged, Origin, Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePage, BundlePair, Checkpoint, NodeStatus, Proof
from shared.contracts.judging import Attestation
from shared.contracts.queries import BundleAnswer, BundlesPage, FleetView, GetBundle, Nothing, PageBundles
from shared.crypto.digest import Digest
from shared.crypto.signing import Purpose, Signer, Trust, Verifier, parse
from shared.errors import BrokerAway
from shared.messaging.broker import connect
from shared.messaging.cloudevents import outgoing
from shared.messaging.direct import get_batch
from shared.messaging.publish import Publisher
from shared.messaging.rpc import ask
from shared.settings import BrokerSettings
from tests.support.storekeeper import STOREKEEPER, with_storekeeper
from tests.support.waiting import until

NODES = ("node-1", "node-2", "node-3")
USERS = ("config", "operator", "platform", "edge_sync", "storekeeper")
QUICK = {
    "LIVE_SECONDS": "1.5", "LAGGING_SECONDS": "1.5", "SEALING_SECONDS": "1.5", "DIGEST_SECONDS": "0.5",
    "SEEN_SECONDS": "0.3", "CHECKPOINT_SECONDS": "0.2",
}


@dataclass
class Ground:
    """Broker and database, shared by the tests; everything in them is made anew for each."""

    data: Path
    keys: Keys
    broker: Broker
    postgres: Postgres
    supervisor: Supervisor
    ports: Ports

    @classmethod
    async def start(cls, data: Path) -> Ground:
        data.chmod(0o755)
        ports = Ports(data / "ports.json")
        keys = ensure_keys(data, data / "nats" / "edge_users.conf", datetime.now(UTC))
        ensure_nodes(keys, list(NODES))
        ground = cls(
            data, keys,
            Broker(data / "nats", ports.pick("nats"), with_storekeeper(keys.users, keys.seed("storekeeper")),
                   (STOREKEEPER,)),
            Postgres(data, ["edge_sync"]), Supervisor(data), ports,
        )
        await ground.supervisor.start(ground.broker.prepare())
        await ground.supervisor.start(ground.postgres.prepare())
        await until(ground.postgres.ready, "PostgreSQL starts", limit=30)
        await ground.postgres.provision()
        await ground.broker_ready()
        return ground

    async def broker_ready(self) -> None:
        await until(
            lambda: serves_jetstream(self.broker.url, self.keys.seed("topology")), "NATS starts", limit=30
        )

    async def login(self, user: str) -> Client:
        return await connect(self._settings(self.keys.seed(user)), user)

    async def login_node(self, node: str) -> Client:
        return await connect(self._settings(self.keys.node_folder(node) / NODE_SEED), f"node-{node}")

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


class FakeConfig:
    """Answers bundle.get and bundle.page of what the test decided, and tells of changes."""

    def __init__(self, client: Client, validator: Signer) -> None:
        self._client, self._validator = client, validator
        self.publisher = Publisher(client)
        self.bundles: dict[str, Bundle] = {}
        self.revision = 0

    async def start(self) -> None:
        await self._client.subscribe(s.RPC_BUNDLE_GET, queue="config", cb=self._get)
        await self._client.subscribe(s.RPC_BUNDLE_PAGE, queue="config", cb=self._page)
        await self._client.flush()

    def decide(self, domain: str, kind: BundleKind, *, attested: str | None = None, epoch: int = 1) -> Bundle:
        """``attested``: the account that the validator vouched for, when it is not the domain's."""
        self.revision += 1
        pairs = [self.pair(domain, self.revision, attested or "acme")] if kind is BundleKind.HTTPS else []
        self.bundles[domain] = Bundle(
            domain=domain, account="acme", revision=self.revision, epoch=epoch, kind=kind, settings=Settings(),
            origin=Origin(scheme="http", host="origin.example", port=80), pairs=pairs,
        )
        return self.bundles[domain]

    def pair(self, domain: str, number: int, account: str) -> BundlePair:
        chain = f"-----BEGIN CERTIFICATE-----\n{domain} {number}\n-----END CERTIFICATE-----\n"
        word = Attestation(
            account=account, domains=[domain], pair_id=f"pair-{number}", leaf_fingerprint=fingerprint(number),
            chain_hash=sha256(chain.encode()).hexdigest(),
        )
        return BundlePair(
            pair_id=f"pair-{number}", chain=chain, sealed_key=SealedKey(epoch=1, box="c2VhbGVk"),
            attestation=self._validator.sign(Purpose.ATTESTATION, word),
        )

    async def tell(self, bundle: Bundle, command: str = "") -> datetime:
        """The event of a change; its submission is now."""
        at = datetime.now(UTC)
        body = DomainChanged(
            domain=bundle.domain, account=bundle.account, revision=bundle.revision, change="replaced",
            command_id=command or f"command-{bundle.revision}", submitted_at=at,
        )
        await self.publisher.publish(
            outgoing(s.EVENT_DOMAIN_CHANGED, body, source="config", about=bundle.domain, at=at)
        )
        return at

    async def change(self, domain: str, kind: BundleKind = BundleKind.HTTPS) -> Bundle:
        bundle = self.decide(domain, kind)
        await self.tell(bundle)
        return bundle

    async def _get(self, message: Msg) -> None:
        bundle = self.bundles.get(parse(GetBundle, message.data).domain)
        await message.respond(BundleAnswer(payload=None if bundle is None else bundle.encode().decode()).encode())

    async def _page(self, message: Msg) -> None:
        question = parse(PageBundles, message.data)
        names = [name for name in sorted(self.bundles) if name > question.after]
        rows = [
            BundlePage(domain=b.domain, revision=b.revision, hash=sha256(b.encode()).hexdigest())
            for b in (self.bundles[name] for name in names[: question.limit])
        ]
        more = rows[-1].domain if len(names) > question.limit else None
        await message.respond(BundlesPage(rows=rows, next=more).encode())


def fingerprint(number: int) -> str:
    return sha256(f"leaf {number}".encode()).hexdigest()


@dataclass
class FakeNode:
    """Hears live bundles, keeps its digest, proves (when ``proves``) and reports every 0.2 s (when ``reports``)."""

    node: str
    client: Client
    trusted: Verifier
    proves: bool = True
    reports: bool = True
    fault: str | None = None
    epochs: list[int] = field(default_factory=lambda: [1])
    digest: Digest = field(default_factory=Digest)
    incarnation: str = ""
    sequence: int = 0
    bundles: dict[str, Bundle] = field(default_factory=dict)
    arrived: dict[tuple[str, int], datetime] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    async def start(self) -> None:
        await self.client.subscribe(s.EDGE_LIVE_ALL, cb=self._live)
        await self.client.subscribe(s.EDGE_CHECKPOINT, cb=self._checkpoint)
        await self.client.flush()
        self._beat = asyncio.create_task(self._report())

    async def stop(self) -> None:
        self._beat.cancel()
        await self.client.close()

    async def _live(self, message: Msg) -> None:
        headers = message.headers or {}
        proof = self._take(message.data, int(headers["Nats-Sequence"]))
        if proof is not None and self.proves:
            await self.report(proof)

    def _take(self, body: bytes, sequence: int) -> Proof | None:
        bundle = self.trusted.open_bytes(Purpose.BUNDLE, body, Bundle)
        self.sequence = max(self.sequence, sequence)
        held = self.bundles.get(bundle.domain)
        if held is not None and (held.revision, held.epoch) > (bundle.revision, bundle.epoch):
            return None
        self.bundles[bundle.domain] = bundle
        self.arrived[(bundle.domain, bundle.revision)] = datetime.now(UTC)
        payload = parse(Signed, body).payload.encode()
        if self.fault is None:
            self.digest.put(bundle.domain, bundle.revision, sha256(payload).hexdigest())
        served = fingerprint(int(bundle.pairs[0].pair_id.removeprefix("pair-"))) if bundle.pairs else None
        return Proof(
            domain=bundle.domain, revision=bundle.revision, applied_at=datetime.now(UTC), fault=self.fault,
            served=None if self.fault else served,
        )

    async def _checkpoint(self, message: Msg) -> None:
        checkpoint = self.trusted.open_bytes(Purpose.CHECKPOINT, message.data, Checkpoint)
        self.checkpoints.append(checkpoint)
        if checkpoint.incarnation != self.incarnation:
            self.incarnation, self.sequence = checkpoint.incarnation, 0
            for stored in await get_batch(
                self.client, s.kv_stream(s.BUCKET_BUNDLES), 1, 500, s.kv_all(s.BUCKET_BUNDLES)
            ):
                self._take(stored.body, stored.sequence)

    async def report(self, *proofs: Proof) -> None:
        await self.client.publish(s.edge_status(self.node), self.status(*proofs).encode())

    def status(self, *proofs: Proof) -> NodeStatus:
        return NodeStatus(
            node=self.node, incarnation=self.incarnation, sequence=self.sequence, root=self.digest.root(),
            epochs=self.epochs, stale=False, proofs=list(proofs), logs=[], nginx_restarts=0, time=datetime.now(UTC),
        )

    async def _report(self) -> None:
        while True:
            if self.reports:
                await self.report()
            await asyncio.sleep(0.2)


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
                with urllib.request.urlopen(f"http://{HOST}:{self.port}/readyz", timeout=2) as answer:
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
        await self.clients["platform"].subscribe(s.EDGE_PROGRESS, cb=self._progress)
        await self.clients["platform"].flush()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        for client in self.clients.values():
            await client.close()

    async def run(self, name: str = "edge_sync", **settings: str) -> Replica:
        """A replica that is ready. ``settings``: without their prefix, over the quick ones."""
        replica = await self.spawn(name, **{f"EDGE_SYNC_{key}": value for key, value in (QUICK | settings).items()})
        self.replicas.append(replica)
        await self.ready(replica)
        return replica

    async def spawn(self, name: str, **environment: object) -> Replica:
        """A process of the service. ``environment``: without EDGETLS_, over the usual."""
        ground = self.ground
        port = ground.ports.pick(f"{name}-health")
        own: dict[str, object] = {
            "NATS_URL": ground.broker.url, "NATS_SEED_FILE": ground.keys.seed("edge_sync"), "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": ground.keys.operator_public, "TRUST_FILE": ground.keys.trust,
            "EDGE_SYNC_DSN": ground.dsn, "EDGE_SYNC_SIGNING_KEY_FILE": ground.keys.signer("edge_sync"),
        }
        told = {f"EDGETLS_{key}": str(value) for key, value in (own | environment).items()}
        log = ground.data / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.edge_sync", env=base_environment() | told, stdout=file, stderr=file
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
        node = FakeNode(name, await self.ground.login_node(name), self.trust.verifier("edge_sync"), **options)
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

    async def view(self) -> FleetView:
        return await ask(self.clients["operator"], s.RPC_FLEET_SHOW, Nothing(), FleetView, timeout=2)

    async def until_state(self, node: str, state: str) -> None:
        async def holds() -> bool:
            with contextlib.suppress(BrokerAway):
                return any(one.node == node and one.state == state for one in (await self.view()).nodes)
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
        found = await until(lambda: self.told(subject, **fields), f"{subject} with {fields} is told", limit=limit)
        return found[0]

    async def _event(self, message: Msg) -> None:
        self.events.append((message.subject, json.loads(message.data)))

    async def _progress(self, message: Msg) -> None:
        self.progress.append(json.loads(message.data))


def _signer(file: Path) -> Signer:
    key_id, text = file.read_text().split()
    return Signer(key_id, text)
