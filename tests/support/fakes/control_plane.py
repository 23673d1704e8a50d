"""A control plane for tests: edge_sync and billing toward one node, on a real broker with the real
rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from nats.aio.msg import Msg

from shared import catalogue
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle, BundlePage, Checkpoint, NodeStatus, Proof
from shared.contracts.queries import DigestAnswer, DigestQuestion
from shared.contracts.usage import Confirmation, UsageBatch
from shared.crypto.digest import Digest, bucket_of
from shared.crypto.signing import Purpose
from shared.messaging.nats_client import NatsClient
from shared.messaging.pull import Pull
from tests.support.fleet_signers import FleetSigners
from tests.support.waiting import until

CHECKPOINT_SECONDS = 0.1


@dataclass
class FakeControlPlane:
    """Plays edge_sync and billing.

    ``statuses`` and ``batches`` keep what the node sent. ``silent`` stops the checkpoints;
    ``confirming`` = False stops the confirmations. ``pages`` is the set that the bucket should
    hold; ``confirmed_ends`` is the confirmed end of each usage log."""

    signers: FleetSigners
    edge_sync: NatsClient
    billing: NatsClient
    digest: Digest = field(default_factory=Digest)
    pages: dict[str, BundlePage] = field(default_factory=dict)
    incarnation: str = ""
    sequence: int = 0
    statuses: list[NodeStatus] = field(default_factory=list)
    batches: list[UsageBatch] = field(default_factory=list)
    silent: bool = False
    confirming: bool = True
    confirmed_ends: dict[str, int] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        found = await self.edge_sync.request(
            s.js_stream_info(s.kv_stream(s.BUCKET_BUNDLES)), b"", timeout=30
        )
        info = json.loads(found.data)
        self.incarnation = info["created"]
        self.sequence = info["state"]["last_seq"]
        await self.edge_sync.subscribe(catalogue.EDGE_STATUS, cb=self._on_status)
        await self.edge_sync.subscribe(catalogue.RPC_EDGE_DIGEST, cb=self._on_digest)
        await self.put_keyring(s.KEYRING_TRUST, self.signers.keys.document)
        self.tasks = [
            asyncio.create_task(self._send_checkpoints()),
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
        await self._publish(s.kv_subject(s.BUCKET_KEYRINGS, key), signed.encode())

    async def put_bundle(self, bundle: Bundle) -> int:
        """Sign a bundle, store it, and add it to the digest. Return its sequence."""
        body = self.signers.sign_bundle(bundle)
        page = BundlePage(domain=bundle.domain, revision=bundle.revision, hash=_payload_hash(body))
        self.pages[bundle.domain] = page
        self.digest.put(page.domain, page.revision, page.hash)
        self.sequence = await self.put_raw(bundle.domain, body)
        return self.sequence

    async def put_raw(self, domain: str, body: bytes) -> int:
        """Store any bytes under a domain's key, outside the digest. Return the sequence."""
        return await self._publish(s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain)), body)

    def forget_domain(self, domain: str) -> None:
        """Take a domain out of the digest, as if the bucket did not hold it."""
        self.digest.drop(domain)
        del self.pages[domain]

    async def send_checkpoint(self) -> None:
        body = Checkpoint(
            incarnation=self.incarnation,
            sequence=self.sequence,
            root=self.digest.root(),
            domains=len(self.digest),
            epoch=self.signers.fleet.newest_epoch,
            flush_seconds=0.2,
            time=datetime.now(UTC),
        )
        signed = self.signers.edge_sync.sign(Purpose.CHECKPOINT, body)
        await self.edge_sync.publish(catalogue.EDGE_CHECKPOINT, signed.encode())

    async def wait_for_proof(self, domain: str, revision: int) -> Proof:
        """Return the first proof, or fault, of the revision."""

        def find_proof() -> Proof | None:
            for proof in self.list_proofs():
                if proof.domain == domain and proof.revision == revision:
                    return proof
            return None

        what = f"revision {revision} of {domain} is proven"
        return await until(find_proof, what, every=0.005)

    def list_proofs(self) -> list[Proof]:
        return [proof for status in self.statuses for proof in status.proofs]

    async def wait_until_in_sync(self, node: str) -> NodeStatus:
        """Return a recent status with the bucket's sequence and root."""

        def find_status() -> NodeStatus | None:
            wanted = (node, self.incarnation, self.sequence, self.digest.root())
            for status in self.statuses[-5:]:
                if (status.node, status.incarnation, status.sequence, status.root) == wanted:
                    return status
            return None

        return await until(find_status, f"{node} is in sync")

    async def _publish(self, subject: str, body: bytes) -> int:
        return (await self.edge_sync.jetstream(timeout=30).publish(subject, body)).seq

    async def _send_checkpoints(self) -> None:
        while True:
            if not self.silent:
                await self.send_checkpoint()
            await asyncio.sleep(CHECKPOINT_SECONDS)

    async def _on_status(self, message: Msg) -> None:
        self.statuses.append(parse(NodeStatus, message.data))

    async def _on_digest(self, message: Msg) -> None:
        question = parse(DigestQuestion, message.data)
        digests: list[str] = []
        members: list[BundlePage] = []
        if question.bucket is None:
            digests = self.digest.buckets()
        for domain, page in sorted(self.pages.items()):
            if bucket_of(domain) == question.bucket:
                members.append(page)
        answer = DigestAnswer(
            incarnation=self.incarnation, sequence=self.sequence, digests=digests, members=members
        )
        await message.respond(answer.encode())

    async def _take_usage(self) -> None:
        """Take batches as billing does: a range counts at the stored end only, and a repeated one
        is confirmed again."""
        pull = Pull(self.billing, s.STREAM_USAGE, s.DURABLE_BILLING_BATCHES)
        async for deliveries in pull.batches():
            for delivery in deliveries:
                batch = parse(UsageBatch, delivery.body)
                self.batches.append(batch)
                await pull.ack(delivery)
                if self.confirming:
                    await self.confirm_batch(batch)

    async def confirm_batch(self, batch: UsageBatch) -> None:
        end = self.confirmed_ends.get(batch.log, 0)
        if batch.start <= end:
            assert batch.start == end or batch.end <= end, "an overlapping range"
            end = max(end, batch.end)
            self.confirmed_ends[batch.log] = end
        await self.send_confirmation(batch, end)

    async def send_confirmation(self, batch: UsageBatch, end: int) -> None:
        body = Confirmation(node=batch.node, log=batch.log, end=end)
        signed = self.signers.billing.sign(Purpose.CONFIRMATION, body)
        await self.billing.publish(catalogue.EDGE_CONFIRMED.for_node(batch.node), signed.encode())


def _payload_hash(body: bytes) -> str:
    return sha256(parse(Signed, body).payload.encode()).hexdigest()
