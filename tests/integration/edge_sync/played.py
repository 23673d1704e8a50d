"""config and the nodes, as a test plays them."""

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
from shared.contracts.domains import DomainChanged, Origin, Settings
from shared.contracts.edge import (
    Bundle,
    BundleKind,
    BundlePage,
    BundlePair,
    Checkpoint,
    NodeStatus,
    Proof,
)
from shared.contracts.judging import Attestation
from shared.contracts.queries import BundleAnswer, BundlesPage, GetBundle, PageBundles
from shared.crypto.digest import Digest
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.messaging.cloudevents import outgoing
from shared.messaging.direct_get import get_batch
from shared.messaging.publisher import Publisher


class FakeConfig:
    """Answers bundle.get and bundle.page of what the test decided (while it ``answers``), and tells
    of changes."""

    def __init__(self, client: Client, validator: Signer) -> None:
        self._client, self._validator = client, validator
        self.publisher = Publisher(client)
        self.bundles: dict[str, Bundle] = {}
        self.revision = 0
        self.answers = True

    async def start(self) -> None:
        await self._client.subscribe(catalogue.RPC_BUNDLE_GET, queue="config", cb=self._get)
        await self._client.subscribe(catalogue.RPC_BUNDLE_PAGE, queue="config", cb=self._page)
        await self._client.flush()

    def decide(
        self, domain: str, kind: BundleKind, *, attested: str | None = None, epoch: int = 1
    ) -> Bundle:
        """``attested``: the account that the validator vouched for, when it is not the domain's."""
        self.revision += 1
        pairs = (
            [self.pair(domain, self.revision, attested or "acme")]
            if kind is BundleKind.HTTPS
            else []
        )
        self.bundles[domain] = Bundle(
            domain=domain,
            account="acme",
            revision=self.revision,
            epoch=epoch,
            kind=kind,
            settings=Settings(),
            origin=Origin(scheme="http", host="origin.example", port=80),
            pairs=pairs,
        )
        return self.bundles[domain]

    def pair(self, domain: str, number: int, account: str) -> BundlePair:
        chain = f"-----BEGIN CERTIFICATE-----\n{domain} {number}\n-----END CERTIFICATE-----\n"
        word = Attestation(
            account=account,
            domains=[domain],
            pair_id=f"pair-{number}",
            leaf_fingerprint=fingerprint(number),
            chain_hash=sha256(chain.encode()).hexdigest(),
        )
        return BundlePair(
            pair_id=f"pair-{number}",
            chain=chain,
            sealed_key=SealedKey(epoch=1, box="c2VhbGVk"),
            attestation=self._validator.sign(Purpose.ATTESTATION, word),
        )

    async def tell(self, bundle: Bundle, command: str = "") -> datetime:
        """The event of a change; its submission is now."""
        at = datetime.now(UTC)
        body = DomainChanged(
            domain=bundle.domain,
            account=bundle.account,
            revision=bundle.revision,
            change="replaced",
            command_id=command or f"command-{bundle.revision}",
            submitted_at=at,
        )
        await self.publisher.publish(
            outgoing(
                catalogue.EVENT_DOMAIN_CHANGED, body, source="config", about=bundle.domain, at=at
            )
        )
        return at

    async def change(self, domain: str, kind: BundleKind = BundleKind.HTTPS) -> Bundle:
        bundle = self.decide(domain, kind)
        await self.tell(bundle)
        return bundle

    async def _get(self, message: Msg) -> None:
        if not self.answers:
            return
        bundle = self.bundles.get(parse(GetBundle, message.data).domain)
        await message.respond(
            BundleAnswer(payload=None if bundle is None else bundle.encode().decode()).encode()
        )

    async def _page(self, message: Msg) -> None:
        if not self.answers:
            return
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
    """Hears live bundles, keeps its digest, proves (when ``proves``) and reports every 0.2 s (when
    ``reports``)."""

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
        await self.client.subscribe(catalogue.EDGE_LIVE, cb=self._live)
        await self.client.subscribe(catalogue.EDGE_CHECKPOINT, cb=self._checkpoint)
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
        served = (
            fingerprint(int(bundle.pairs[0].pair_id.removeprefix("pair-")))
            if bundle.pairs
            else None
        )
        return Proof(
            domain=bundle.domain,
            revision=bundle.revision,
            applied_at=datetime.now(UTC),
            fault=self.fault,
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
        await self.client.publish(
            catalogue.EDGE_STATUS.for_node(self.node), self.status(*proofs).encode()
        )

    def status(self, *proofs: Proof) -> NodeStatus:
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

    async def _report(self) -> None:
        while True:
            if self.reports:
                await self.report()
            await asyncio.sleep(0.2)
