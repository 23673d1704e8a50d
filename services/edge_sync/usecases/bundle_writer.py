"""Desired state out: the live path, the repair, the checkpoint. One writer at a time, by lease, and
in order.

Puts are made one after the other: so the index and a sequence always tell the same, and a
checkpoint is true."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from nats.aio.client import Client

from services.edge_sync.domain.bucket_index import Index
from services.edge_sync.domain.bundles import Desired, Held, Step, decide, differs, examine, reopen
from services.edge_sync.store.bucket import Bucket, BucketInfo, Moved
from services.edge_sync.usecases.trust import Trusted
from shared import catalogue, subjects
from shared.contracts.edge import BundleKind
from shared.contracts.queries import BundlesPage, GetBundle, PageBundles
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import BrokerAway, Poison, Refused, Transient
from shared.messaging.direct_get import StoredMessage
from shared.messaging.rpc import ask

log = structlog.get_logger()
AT_ONCE = 16
ATTEMPTS = 5
YIELD_EVERY = 50
"""Each message costs a signature check and a parse: 50 take about 20 ms of the event loop."""


class ConfigReads:
    """Config's desired state. A refusal (it is busy) passes like its absence."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def bundle(self, domain: str) -> str | None:
        """The exact bytes to sign; None when config does not know the domain."""
        try:
            answer = await ask(self._client, catalogue.RPC_BUNDLE_GET, GetBundle(domain=domain))
        except Refused as error:
            raise Transient(f"config refused the bundle of {domain}: {error}") from None
        return answer.payload

    async def page(self, after: str) -> BundlesPage:
        try:
            return await ask(self._client, catalogue.RPC_BUNDLE_PAGE, PageBundles(after=after))
        except Refused as error:
            raise Transient(f"config refused a page of bundles: {error}") from None


class BundleWriter:
    """The bucket of bundles and what it holds. ``lost``: set when the broker lost it, or somebody
    else wrote to it.

    Until a repair has gone through it may lack what config wants, and a node drops what a signed
    checkpoint lacks: so there is none until then (``_lacks`` counts the reasons, 0 when there are
    none)."""

    def __init__(
        self, bucket: Bucket, config: ConfigReads, signer: Signer, trusted: Trusted
    ) -> None:
        self._bucket, self._config, self._signer, self._trusted = bucket, config, signer, trusted
        self._lock = asyncio.Lock()
        self._sure, self._lacks = False, 0
        self.index = Index("")
        self.lost = asyncio.Event()

    async def load(self) -> None:
        """Reads the whole bucket; what edge_sync did not sign is known as invalid."""
        async with self._lock:
            await self._load(await self._bucket.info())

    async def desired(self, domain: str) -> Desired | None:
        """What config wants; None when it does not know the domain, Poison when no node may be made
        to serve it."""
        payload = await self._config.bundle(domain)
        return None if payload is None else examine(payload, domain, self._trusted.validator)

    async def put(self, desired: Desired) -> Held:
        """What the bucket holds after it: ``desired``, or what is newer."""
        async with self._lock:
            for _ in range(ATTEMPTS):
                await self._make_sure()
                held = self.index.get(desired.domain)
                step = decide(held, desired)
                if held is not None and step in (Step.SAME, Step.STALE):
                    return held
                try:
                    return await self._write(desired, held, step)
                except Moved:
                    await self._read_again(desired.domain)
            raise BrokerAway(f"somebody else keeps writing the bundle of {desired.domain}")

    async def current(self) -> Index | None:
        """The index, made equal to the bucket as it is now; None while that may lack what config
        wants."""
        async with self._lock:
            info = await self._bucket.info()
            if info.incarnation != self.index.incarnation or info.sequence < self.index.sequence:
                log.warning("bucket.lost", incarnation=info.incarnation, sequence=info.sequence)
                await self._load(info)
            elif info.sequence > self.index.sequence or not self._sure:
                await self._catch_up(info)
            return None if self._lacks else self.index

    async def repair(self) -> int:
        """Makes the bucket what config wants; how many domains were put. Transient when config is
        away."""
        droppable = {domain for domain, held in self.index.items() if not held.served}
        put, known, lacks = 0, 0, self._lacks
        after: str | None = ""
        while after is not None:
            page = await self._config.page(after)
            todo = [row.domain for row in page.rows if differs(self.index.get(row.domain), row)]
            put += await self._bring(todo)
            droppable.difference_update(row.domain for row in page.rows)
            known += len(page.rows)
            after = page.next
        await self._drop(droppable)
        if self._lacks == lacks:
            self._lacks = 0
        log.info("repaired", put=put, desired=known, held=len(self.index))
        return put

    async def _bring(self, domains: Sequence[str]) -> int:
        slots = asyncio.Semaphore(AT_ONCE)

        async def bring(domain: str) -> bool:
            async with slots:
                try:
                    desired = await self.desired(domain)
                except Poison as error:
                    log.error(
                        "bundle.refused", domain=domain, reason=error.reason, error=str(error)
                    )
                    return False
                if desired is not None:
                    await self.put(desired)
                return desired is not None

        return sum(await asyncio.gather(*map(bring, domains)))

    async def _drop(self, domains: set[str]) -> None:
        """Tombstones past their time, and what does not verify. A live bundle that config does not
        know is kept: the database may be an older copy, and an outage would be worse."""
        async with self._lock:
            await self._make_sure()
            for domain in sorted(domains):
                held = self.index.get(domain)
                if held is not None and (held.kind is BundleKind.REMOVED or not held.valid):
                    await self._bucket.erase(held.sequence)
                    self.index.drop(domain)
                    self.index.moved(self.index.sequence)
                    log.info("bundle.dropped", domain=domain)

    async def _write(self, desired: Desired, held: Held | None, step: Step) -> Held:
        expected = 0 if held is None else held.sequence
        if step is Step.ERASE_THEN_PUT:
            await self._bucket.erase(expected)
            expected = 0
        body = self._signer.sign(Purpose.BUNDLE, desired.payload).encode()
        try:
            sequence = await self._bucket.put(subjects.bundle_key(desired.domain), body, expected)
        except (BrokerAway, Moved):
            # It may have been stored all the same: nothing is told before that is known.
            self._sure = False
            if step is Step.ERASE_THEN_PUT:
                self.index.drop(desired.domain)
                self.index.moved(self.index.sequence)
                self._may_lack()
            raise
        stands = desired.at(sequence)
        if sequence != self.index.sequence + 1:
            self._sure = False
            await self._make_sure()
        self.index.put(desired.domain, stands)
        self.index.moved(sequence)
        return stands

    async def _make_sure(self) -> None:
        if not self._sure:
            info = await self._bucket.info()
            if info.incarnation == self.index.incarnation and info.sequence >= self.index.sequence:
                await self._catch_up(info)
            else:
                await self._load(info)

    async def _read_again(self, domain: str) -> None:
        """One key, when the bucket holds another message of it than the index knows."""
        message = await self._bucket.last(subjects.bundle_key(domain))
        if message is None:
            self.index.drop(domain)
        if message is None or not self._take(self.index, message, self._trusted.own):
            self._may_lack()
        self._sure = False

    async def _catch_up(self, info: BucketInfo) -> None:
        """Reads what was stored since: puts whose PubAck was lost, or another writer's."""
        reached, own = info.sequence, self._trusted.own
        async for batch in self._bucket.read(self.index.sequence + 1):
            for message in batch:
                if not self._take(self.index, message, own):
                    self._may_lack()
            reached = max(reached, batch[-1].sequence)
        self.index.moved(reached)
        self._sure = True

    async def _load(self, info: BucketInfo) -> None:
        index = Index(info.incarnation)
        reached, own = info.sequence, self._trusted.own
        async for batch in self._bucket.read(1):
            for number, message in enumerate(batch):
                self._take(index, message, own)
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            reached = max(reached, batch[-1].sequence)
        index.moved(reached)
        self.index, self._sure = index, True
        self._may_lack()

    def _may_lack(self) -> None:
        self._lacks += 1
        self.lost.set()

    def _take(self, index: Index, message: StoredMessage, own: Verifier) -> bool:
        """Whether it is a bundle that edge_sync signed, and no older one than stood there."""
        domain = subjects.bundle_domain(self._bucket.key_of(message))
        before, held = index.get(domain), reopen(message.body, domain, own, message.sequence)
        index.put(domain, held)
        return held.valid and (
            before is None or (before.revision, before.epoch) <= (held.revision, held.epoch)
        )
