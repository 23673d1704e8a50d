"""The control plane as a test plays it on a real broker with the real rights: edge_sync and billing
toward one node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from nats.aio.msg import Msg

from clients.fleet.keys import ensure_nkey
from deploy.embedded.nats import Broker, find_binary, login, serves_jetstream
from deploy.embedded.ports import Ports
from shared import catalogue
from shared import subjects as s
from shared import topology as t
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle, BundlePage, Checkpoint, NodeStatus, Proof
from shared.contracts.queries import DigestAnswer, DigestQuestion
from shared.contracts.usage import Confirmation, UsageBatch
from shared.crypto.digest import Digest, bucket_of
from shared.crypto.signing import Purpose
from shared.messaging.nats_client import NatsClient, as_nats_client
from shared.messaging.pull import Pull
from shared.nats_config import render_edge_users
from tests.integration.edge_agent.signing import Signers
from tests.support.storekeeper import STOREKEEPER, with_storekeeper
from tests.support.waiting import until

CHECKPOINT_SECONDS = 0.1


@dataclass
class BrokerProcess:
    """nats-server with every user of the topology and the nodes given."""

    broker: Broker
    seeds: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path, nodes: dict[str, str]) -> BrokerProcess:
        keys = {user.name: ensure_nkey(folder / f"{user.name}.nk") for user in t.USERS}
        broker = Broker(
            folder / "nats",
            Ports(folder / "ports.json").pick("nats"),
            with_storekeeper(keys, folder / "storekeeper.nk"),
            (STOREKEEPER,),
        )
        broker.prepare()
        broker.users_file.write_text(render_edge_users(nodes))
        return cls(broker, folder)

    async def start(self) -> None:
        self._launch()
        seed = self.seeds / "topology.nk"
        await until(lambda: serves_jetstream(self.broker.url, seed), "the broker answers")
        topology = await self.login("topology")
        await t.apply(topology.jetstream(timeout=10))
        await topology.close()

    def _launch(self) -> None:
        with (self.seeds / "nats.log").open("ab") as log:
            config = str(self.broker.folder / "nats.conf")
            self.process = subprocess.Popen([str(find_binary()), "-c", config], stderr=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    async def login(self, user: str) -> NatsClient:
        return as_nats_client(await login(self.broker.url, user, self.seeds / f"{user}.nk"))


@dataclass
class Control:
    """``statuses`` and ``batches`` as they came; ``silent`` stops the checkpoints, ``confirming``
    the confirmations."""

    signers: Signers
    edge_sync: NatsClient
    billing: NatsClient
    digest: Digest = field(default_factory=Digest)
    held: dict[str, BundlePage] = field(default_factory=dict)
    incarnation: str = ""
    sequence: int = 0
    statuses: list[NodeStatus] = field(default_factory=list)
    batches: list[UsageBatch] = field(default_factory=list)
    silent: bool = False
    confirming: bool = True
    stored: dict[str, int] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        found = await self.edge_sync.request(
            s.js_stream_info(s.kv_stream(s.BUCKET_BUNDLES)), b"", timeout=5
        )
        info = json.loads(found.data)
        self.incarnation, self.sequence = info["created"], info["state"]["last_seq"]
        await self.edge_sync.subscribe(catalogue.EDGE_STATUS, cb=self._on_status)
        await self.edge_sync.subscribe(catalogue.RPC_EDGE_DIGEST, cb=self._on_digest)
        await self.put_keyring(s.KEYRING_TRUST, self.signers.trust())
        self.tasks = [
            asyncio.create_task(self._checkpoints()),
            asyncio.create_task(self._take_usage()),
        ]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self.tasks)
        for client in (self.edge_sync, self.billing):
            await client.close()

    async def put_keyring(self, key: str, signed: Signed) -> None:
        await self._store(s.kv_subject(s.BUCKET_KEYRINGS, key), signed.encode())

    async def put(self, bundle: Bundle) -> int:
        """Signed, stored, and in the digest; its sequence."""
        body = self.signers.signed(bundle)
        page = BundlePage(domain=bundle.domain, revision=bundle.revision, hash=_hash(body))
        self.held[bundle.domain] = page
        self.digest.put(page.domain, page.revision, page.hash)
        self.sequence = await self.put_raw(bundle.domain, body)
        return self.sequence

    async def put_raw(self, domain: str, body: bytes) -> int:
        return await self._store(s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain)), body)

    def forget(self, domain: str) -> None:
        self.digest.drop(domain)
        del self.held[domain]

    async def checkpoint(self) -> None:
        body = Checkpoint(
            incarnation=self.incarnation,
            sequence=self.sequence,
            root=self.digest.root(),
            domains=len(self.digest),
            epoch=self.signers.fleet.epoch,
            flush_seconds=0.2,
            time=datetime.now(UTC),
        )
        signed = self.signers.edge_sync.sign(Purpose.CHECKPOINT, body)
        await self.edge_sync.publish(catalogue.EDGE_CHECKPOINT, signed.encode())

    async def proof(self, domain: str, revision: int, *, limit: float = 15) -> Proof:
        """The first proof, or fault, of the revision."""
        return await until(
            lambda: next(
                (p for p in self.proofs() if p.domain == domain and p.revision == revision), None
            ),
            f"revision {revision} of {domain} is proven",
            limit=limit,
            every=0.005,
        )

    def proofs(self) -> list[Proof]:
        return [proof for status in self.statuses for proof in status.proofs]

    async def agrees(self, node: str, *, limit: float = 15) -> NodeStatus:
        """A status with the bucket's sequence and root."""

        def agreeing() -> NodeStatus | None:
            wanted = (node, self.incarnation, self.sequence, self.digest.root())
            return next(
                (
                    x
                    for x in self.statuses[-5:]
                    if (x.node, x.incarnation, x.sequence, x.root) == wanted
                ),
                None,
            )

        return await until(agreeing, f"{node} is in sync", limit=limit)

    async def _store(self, subject: str, body: bytes) -> int:
        return (await self.edge_sync.jetstream(timeout=5).publish(subject, body, timeout=5)).seq

    async def _checkpoints(self) -> None:
        while True:
            if not self.silent:
                await self.checkpoint()
            await asyncio.sleep(CHECKPOINT_SECONDS)

    async def _on_status(self, message: Msg) -> None:
        self.statuses.append(parse(NodeStatus, message.data))

    async def _on_digest(self, message: Msg) -> None:
        question = parse(DigestQuestion, message.data)
        members = (
            []
            if question.bucket is None
            else [
                self.held[domain]
                for domain in sorted(self.held)
                if bucket_of(domain) == question.bucket
            ]
        )
        digests = self.digest.buckets() if question.bucket is None else []
        answer = DigestAnswer(
            incarnation=self.incarnation, sequence=self.sequence, digests=digests, members=members
        )
        await message.respond(answer.encode())

    async def _take_usage(self) -> None:
        """Billing's rule: a range counts at the stored end only; what is repeated is confirmed
        again."""
        pull = Pull(self.billing, s.STREAM_USAGE, s.DURABLE_BILLING_BATCHES)
        async for deliveries in pull.batches():
            for delivery in deliveries:
                batch = parse(UsageBatch, delivery.body)
                self.batches.append(batch)
                await pull.ack(delivery)
                if self.confirming:
                    await self.confirm(batch)

    async def confirm(self, batch: UsageBatch) -> None:
        end = self.stored.get(batch.log, 0)
        if batch.start <= end:
            assert batch.start == end or batch.end <= end, "an overlapping range"
            end = self.stored[batch.log] = max(end, batch.end)
        await self.say_confirmed(batch, end)

    async def say_confirmed(self, batch: UsageBatch, end: int) -> None:
        body = Confirmation(node=batch.node, log=batch.log, end=end)
        signed = self.signers.billing.sign(Purpose.CONFIRMATION, body)
        await self.billing.publish(catalogue.EDGE_CONFIRMED.for_node(batch.node), signed.encode())


def _hash(body: bytes) -> str:
    return sha256(parse(Signed, body).payload.encode()).hexdigest()
