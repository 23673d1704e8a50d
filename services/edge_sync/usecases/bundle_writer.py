"""Write desired state into the bucket of bundles: single puts, and the repair of the whole bucket.

Only the leader writes, and it makes one put after the other. So the index in memory equals the
bucket up to a known sequence, and the checkpoint that is signed from the index is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from nats.aio.client import Client

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.bundles import (
    DesiredBundle,
    PutAction,
    StoredBundle,
    check_bundle,
    choose_action,
    needs_put,
    read_stored,
)
from services.edge_sync.store.bucket import BucketInfo, KvBucket, WriteConflict
from services.edge_sync.usecases.trust import CurrentTrust
from shared import catalogue, subjects
from shared.contracts.edge import BundleKind
from shared.contracts.queries import BundlesPage, GetBundle, PageBundles
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import BrokerAway, Poison, Refused, Transient
from shared.messaging.direct_get import StoredMessage
from shared.messaging.rpc import ask

log = structlog.get_logger()
BUNDLES_AT_ONCE = 16
PUT_ATTEMPTS = 5
YIELD_EVERY = 50
"""Each message costs a signature check and a parse: 50 take about 20 ms of the event loop."""


class ConfigClient:
    """Asks config for desired state. Transient when config is away or refuses because it is
    busy."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def fetch_bundle(self, domain: str) -> str | None:
        """Return the exact bytes to sign, None when config does not know the domain."""
        try:
            answer = await ask(self._client, catalogue.RPC_BUNDLE_GET, GetBundle(domain=domain))
        except Refused as error:
            raise Transient(f"config refused the bundle of {domain}: {error}") from None
        return answer.payload

    async def fetch_page(self, after: str) -> BundlesPage:
        """Return the domains after ``after`` with the revision and hash of their bundles."""
        try:
            return await ask(self._client, catalogue.RPC_BUNDLE_PAGE, PageBundles(after=after))
        except Refused as error:
            raise Transient(f"config refused a page of bundles: {error}") from None


class BundleWriter:
    """The only writer of the bucket of bundles, with an index of what the bucket holds.

    ``repair_needed`` is set when the bucket was lost, or holds what this writer did not put."""

    # No checkpoint of a doubtful bucket (decision 0011).
    # A node drops every domain that a signed checkpoint excludes. The bucket is the broker's: its
    # store may be lost, or somebody may write into it. A root signed then would make all nodes
    # drop domains that config still wants, for as long as config is away. So _doubts counts the
    # reasons to doubt: a start, another incarnation, a message that this writer did not sign, an
    # older bundle over a newer one. While it is above 0, index_for_checkpoint returns None. Only
    # a whole repair sets it to 0, and only when no new reason came while the repair ran: the
    # repair may have passed the domain by then. The cost: no checkpoint while config is away
    # after such a fault. Nodes serve on, and report themselves stale after 60 s.

    def __init__(
        self, bucket: KvBucket, config: ConfigClient, signer: Signer, trust: CurrentTrust
    ) -> None:
        self._bucket = bucket
        self._config = config
        self._signer = signer
        self._trust = trust
        self._lock = asyncio.Lock()
        self._index_is_current = False
        self._doubts = 0
        self.index = BucketIndex("")
        self.repair_needed = asyncio.Event()

    async def load_index(self) -> None:
        """Read the whole bucket. What edge_sync did not sign is indexed as invalid."""
        async with self._lock:
            await self._read_whole_bucket(await self._bucket.info())

    async def fetch_desired(self, domain: str) -> DesiredBundle | None:
        """Return the bundle that config wants, None when config does not know the domain.

        Poison when no node may serve it."""
        payload = await self._config.fetch_bundle(domain)
        return None if payload is None else check_bundle(payload, domain, self._trust.validator)

    async def put_bundle(self, desired: DesiredBundle) -> StoredBundle:
        """Put a bundle unless the bucket holds the same or a newer one, and return what it holds
        then."""
        # Every put names the sequence of the key's last message as the index knows it, and the
        # server refuses the put when that is another (WriteConflict). So what this writer decided
        # on is what it replaces: a replica that lost its lease without noticing it, or anyone
        # else with rights on the bucket, cannot slip a message in between, and (revision, epoch)
        # never goes down. After a conflict the key is read again and the decision made anew. When
        # the answer to a put is lost, the message may be stored or not: nothing is decided from
        # the index before it was compared with the bucket (_index_is_current).
        async with self._lock:
            for _ in range(PUT_ATTEMPTS):
                await self._synchronise_index()
                stored = self.index.get(desired.domain)
                action = choose_action(stored, desired)
                if stored is not None and action in (PutAction.KEEP_SAME, PutAction.KEEP_NEWER):
                    return stored
                try:
                    return await self._sign_and_put(desired, stored, action)
                except WriteConflict:
                    await self._read_key(desired.domain)
            raise BrokerAway(f"another writer keeps changing the bundle of {desired.domain}")

    async def index_for_checkpoint(self) -> BucketIndex | None:
        """Return the index, equal to the bucket as it is now. None while the bucket may lack what
        config wants."""
        async with self._lock:
            await self._compare_index(await self._bucket.info())
            return None if self._doubts else self.index

    async def repair_bucket(self) -> None:
        """Make the bucket hold what config wants. Transient when config is away."""
        # Config's pages are read without a lock while live puts go on. That is safe: a page only
        # names domains to look at, and put_bundle decides under the lock with the bundle as config
        # has it then. Domains with a pair are never dropped, even when no page names them: config's
        # database may be an older copy, and an outage would be worse than a bundle too many. What
        # config does not name is dropped only when it is a tombstone (config keeps those for a
        # time) or invalid. The doubts that were counted before the first page are settled by the
        # whole run; a doubt that came meanwhile asks for another run.
        doubts = self._doubts
        droppable = {domain for domain, stored in self.index.items() if not stored.served}
        put_count = 0
        known_count = 0
        after: str | None = ""
        while after is not None:
            page = await self._config.fetch_page(after)
            to_put = []
            for row in page.rows:
                droppable.discard(row.domain)
                if needs_put(self.index.get(row.domain), row):
                    to_put.append(row.domain)
            put_count += await self._put_domains(to_put)
            known_count += len(page.rows)
            after = page.next
        await self._drop_leftovers(droppable)
        if self._doubts == doubts:
            self._doubts = 0
        log.info("bucket.repaired", put=put_count, desired=known_count, held=len(self.index))

    async def _put_domains(self, domains: Sequence[str]) -> int:
        """Fetch and put the bundles of ``domains``; return how many were put or there already."""
        slots = asyncio.Semaphore(BUNDLES_AT_ONCE)

        async def put_domain(domain: str) -> bool:
            async with slots:
                try:
                    desired = await self.fetch_desired(domain)
                except Poison as error:
                    log.error(
                        "bundle.refused", domain=domain, reason=error.reason, error=str(error)
                    )
                    return False
                if desired is not None:
                    await self.put_bundle(desired)
                return desired is not None

        return sum(await asyncio.gather(*map(put_domain, domains)))

    async def _drop_leftovers(self, domains: set[str]) -> None:
        """Erase those of ``domains`` that are tombstones or invalid."""
        async with self._lock:
            await self._synchronise_index()
            for domain in sorted(domains):
                stored = self.index.get(domain)
                if stored is None or (stored.valid and stored.kind is not BundleKind.REMOVED):
                    continue
                await self._bucket.erase(stored.sequence)
                self.index.drop(domain)
                self.index.advance_to(self.index.sequence)
                log.info("bundle.dropped", domain=domain)

    async def _sign_and_put(
        self, desired: DesiredBundle, stored: StoredBundle | None, action: PutAction
    ) -> StoredBundle:
        expected = 0 if stored is None else stored.sequence
        if action is PutAction.ERASE_THEN_PUT:
            await self._bucket.erase(expected)
            expected = 0
        body = self._signer.sign(Purpose.BUNDLE, desired.payload).encode()
        try:
            sequence = await self._bucket.put(subjects.bundle_key(desired.domain), body, expected)
        except (BrokerAway, WriteConflict):
            # The bundle may be stored all the same.
            self._index_is_current = False
            if action is PutAction.ERASE_THEN_PUT:
                self.index.drop(desired.domain)
                self.index.advance_to(self.index.sequence)
                self._note_doubt()
            raise
        if sequence != self.index.sequence + 1:
            # Another message came in between: read it before the index moves past it.
            self._index_is_current = False
            await self._synchronise_index()
        now_stored = desired.stored_at(sequence)
        self.index.put(desired.domain, now_stored)
        self.index.advance_to(sequence)
        return now_stored

    async def _synchronise_index(self) -> None:
        """Make the index equal to the bucket, if a fault has left that open."""
        if not self._index_is_current:
            await self._compare_index(await self._bucket.info())

    async def _compare_index(self, info: BucketInfo) -> None:
        """Read what the index lacks: everything when the bucket is another one or was cut back."""
        if info.incarnation != self.index.incarnation or info.sequence < self.index.sequence:
            log.warning("bucket.lost", incarnation=info.incarnation, sequence=info.sequence)
            await self._read_whole_bucket(info)
        elif info.sequence > self.index.sequence or not self._index_is_current:
            await self._read_new_messages(info)

    async def _read_key(self, domain: str) -> None:
        """Read one key again, after the bucket was found to hold another message than indexed."""
        message = await self._bucket.last(subjects.bundle_key(domain))
        if message is None:
            self.index.drop(domain)
            self._note_doubt()
        elif not self._index_message(self.index, message, self._trust.edge_sync):
            self._note_doubt()
        self._index_is_current = False

    async def _read_new_messages(self, info: BucketInfo) -> None:
        """Read what was stored since: puts whose PubAck was lost, or another writer's."""
        own = self._trust.edge_sync
        reached = info.sequence
        async for batch in self._bucket.read_from(self.index.sequence + 1):
            for message in batch:
                if not self._index_message(self.index, message, own):
                    self._note_doubt()
            reached = max(reached, batch[-1].sequence)
        self.index.advance_to(reached)
        self._index_is_current = True

    async def _read_whole_bucket(self, info: BucketInfo) -> None:
        own = self._trust.edge_sync
        index = BucketIndex(info.incarnation)
        reached = info.sequence
        async for batch in self._bucket.read_from(1):
            for number, message in enumerate(batch):
                self._index_message(index, message, own)
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            reached = max(reached, batch[-1].sequence)
        index.advance_to(reached)
        self.index = index
        self._index_is_current = True
        self._note_doubt()

    def _note_doubt(self) -> None:
        self._doubts += 1
        self.repair_needed.set()

    def _index_message(self, index: BucketIndex, message: StoredMessage, own: Verifier) -> bool:
        """Index a message. Return whether edge_sync signed it and it is no older than the one
        before it."""
        domain = subjects.bundle_domain(self._bucket.key_of(message))
        before = index.get(domain)
        stored = read_stored(message.body, domain, own, message.sequence)
        index.put(domain, stored)
        if not stored.valid:
            return False
        if before is None:
            return True
        return (before.revision, before.epoch) <= (stored.revision, stored.epoch)
