"""A fake config and fake nodes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from nats.aio.client import Client
from nats.aio.msg import Msg

from shared import catalogue
from shared import subjects as s
from shared.contracts.base import SealedKey, Signed
from shared.contracts.codec import parse
from shared.contracts.domains import DomainChanged
from shared.contracts.edge import (
    Bundle,
    BundleKind,
    BundlePage,
    BundlePair,
    Checkpoint,
    NodeStatus,
    Proof,
)
from shared.contracts.queries import BundleAnswer, BundlesPage, GetBundle, PageBundles
from shared.crypto.digest import Digest
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.messaging.cloudevents import outgoing
from shared.messaging.direct_get import get_batch
from shared.messaging.publisher import Publisher
from tests.support.factories import ACCOUNT, make_bundle, make_bundle_pair
from tests.support.waiting import until


class FakeConfig:
    """Answers the queries for bundles (while ``answers``) and publishes changes of domains."""

    def __init__(self, client: Client, validator: Signer) -> None:
        self._validator = validator
        self.bundles: dict[str, Bundle] = {}
        self.revision = 0
        self.answers = True
        self.use_client(client)

    def use_client(self, client: Client) -> None:
        """Use another connection; ``start`` must follow before it answers there."""
        self._client = client
        self._publisher = Publisher(client)

    async def start(self) -> None:
        """Subscribe to the queries."""
        await self._client.subscribe(catalogue.RPC_BUNDLE_GET, queue="config", cb=self._answer_get)
        await self._client.subscribe(
            catalogue.RPC_BUNDLE_PAGE, queue="config", cb=self._answer_page
        )
        await self._client.flush()

    def decide_bundle(
        self, domain: str, kind: BundleKind, *, attested: str = ACCOUNT, epoch: int = 1
    ) -> Bundle:
        """Want a bundle of the next revision, without an event.

        ``attested``: the account in the attestation; another than ``acme`` does not fit."""
        self.revision += 1
        pairs = []
        if kind is BundleKind.HTTPS:
            pairs.append(self._make_pair(domain, self.revision, attested))
        bundle = make_bundle(domain, self.revision, *pairs, kind=kind, epoch=epoch)
        self.bundles[domain] = bundle
        return bundle

    def _make_pair(self, domain: str, number: int, account: str) -> BundlePair:
        chain = f"-----BEGIN CERTIFICATE-----\n{domain} {number}\n-----END CERTIFICATE-----\n"
        return make_bundle_pair(
            self._validator,
            domain=domain,
            pair_id=f"pair-{number}",
            leaf=make_fingerprint(number),
            chain=chain,
            sealed_key=SealedKey(epoch=1, box="c2VhbGVk"),
            attested={"account": account},
        )

    async def publish_change(self, bundle: Bundle) -> datetime:
        """Publish the event of a bundle and return its time, which is also its submission."""
        at = datetime.now(UTC)
        body = DomainChanged(
            domain=bundle.domain,
            account=bundle.account,
            revision=bundle.revision,
            change="replaced",
            command_id=f"command-{bundle.revision}",
            submitted_at=at,
        )
        event = outgoing(
            catalogue.EVENT_DOMAIN_CHANGED, body, source="config", about=bundle.domain, at=at
        )
        await self._publisher.publish(event)
        return at

    async def change_domain(self, domain: str, kind: BundleKind = BundleKind.HTTPS) -> Bundle:
        """Want a bundle of the next revision and publish its event."""
        bundle = self.decide_bundle(domain, kind)
        await self.publish_change(bundle)
        return bundle

    async def _answer_get(self, message: Msg) -> None:
        if not self.answers:
            return
        bundle = self.bundles.get(parse(GetBundle, message.data).domain)
        payload = None if bundle is None else bundle.encode().decode()
        await message.respond(BundleAnswer(payload=payload).encode())

    async def _answer_page(self, message: Msg) -> None:
        if not self.answers:
            return
        question = parse(PageBundles, message.data)
        names = [name for name in sorted(self.bundles) if name > question.after]
        rows = []
        for name in names[: question.limit]:
            bundle = self.bundles[name]
            row = BundlePage(domain=name, revision=bundle.revision, hash=hash_bundle(bundle))
            rows.append(row)
        more = rows[-1].domain if len(names) > question.limit else None
        await message.respond(BundlesPage(rows=rows, next=more).encode())


def make_fingerprint(number: int) -> str:
    """Return the leaf fingerprint of the pair with this number."""
    return sha256(f"leaf {number}".encode()).hexdigest()


def hash_bundle(bundle: Bundle) -> str:
    """Return the SHA-256 of a bundle's bytes."""
    return sha256(bundle.encode()).hexdigest()


@dataclass
class FakeNode:
    """Takes live bundles and checkpoints, keeps its digest, proves (while ``proves``) and reports
    every 0.2 s (while ``reports``).

    ``fault``: why it applies no bundle. ``arrived``: when each (domain, revision) came."""

    node: str
    client: Client
    edge_sync: Verifier
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
        """Subscribe, and begin to report."""
        await self.client.subscribe(catalogue.EDGE_LIVE, cb=self._take_live)
        await self.client.subscribe(catalogue.EDGE_CHECKPOINT, cb=self._take_checkpoint)
        await self.client.flush()
        self._reporting = asyncio.create_task(self._report_regularly())

    async def stop(self) -> None:
        """Stop reporting and disconnect."""
        self._reporting.cancel()
        await self.client.close()

    async def wait_for_checkpoint(self, **fields: object) -> None:
        """Wait until the last checkpoint has these fields."""

        def has_fields() -> bool:
            if not self.checkpoints:
                return False
            last = self.checkpoints[-1]
            return all(getattr(last, name) == value for name, value in fields.items())

        await until(has_fields, f"{self.node} has a checkpoint with {fields}")

    async def wait_for_more_checkpoints(self, count: int) -> None:
        """Wait until more than ``count`` checkpoints have come."""
        await until(lambda: len(self.checkpoints) > count, "a new checkpoint")

    async def _take_live(self, message: Msg) -> None:
        headers = message.headers or {}
        proof = self._apply_bundle(message.data, int(headers["Nats-Sequence"]))
        if proof is not None and self.proves:
            await self.publish_status(proof)

    def _apply_bundle(self, body: bytes, sequence: int) -> Proof | None:
        """Apply a signed bundle and return its proof, None when a newer one is there."""
        bundle = self.edge_sync.open_bytes(Purpose.BUNDLE, body, Bundle)
        self.sequence = max(self.sequence, sequence)
        held = self.bundles.get(bundle.domain)
        if held is not None and (held.revision, held.epoch) > (bundle.revision, bundle.epoch):
            return None
        self.bundles[bundle.domain] = bundle
        self.arrived[(bundle.domain, bundle.revision)] = datetime.now(UTC)
        served = None
        if self.fault is None:
            payload = parse(Signed, body).payload.encode()
            self.digest.put(bundle.domain, bundle.revision, sha256(payload).hexdigest())
            if bundle.pairs:
                served = make_fingerprint(int(bundle.pairs[0].pair_id.removeprefix("pair-")))
        return Proof(
            domain=bundle.domain,
            revision=bundle.revision,
            applied_at=datetime.now(UTC),
            fault=self.fault,
            served=served,
        )

    async def _take_checkpoint(self, message: Msg) -> None:
        """Keep a checkpoint; read the whole bucket when it is another one than before."""
        checkpoint = self.edge_sync.open_bytes(Purpose.CHECKPOINT, message.data, Checkpoint)
        self.checkpoints.append(checkpoint)
        if checkpoint.incarnation == self.incarnation:
            return
        self.incarnation = checkpoint.incarnation
        self.sequence = 0
        for stored in await get_batch(
            self.client, s.kv_stream(s.BUCKET_BUNDLES), 1, 500, s.kv_all(s.BUCKET_BUNDLES)
        ):
            self._apply_bundle(stored.body, stored.sequence)

    async def publish_status(self, *proofs: Proof) -> None:
        """Report now."""
        status = self.build_status(*proofs)
        await self.client.publish(catalogue.EDGE_STATUS.for_node(self.node), status.encode())

    def build_status(self, *proofs: Proof) -> NodeStatus:
        """Return the node's status as of now."""
        return NodeStatus(
            node=self.node,
            incarnation=self.incarnation,
            sequence=self.sequence,
            root=self.digest.root(),
            epochs=self.epochs,
            stale=False,
            proofs=list(proofs),
            logs=[],
            nginx_restarts=0,
            time=datetime.now(UTC),
        )

    async def _report_regularly(self) -> None:
        while True:
            if self.reports:
                await self.publish_status()
            await asyncio.sleep(0.2)
