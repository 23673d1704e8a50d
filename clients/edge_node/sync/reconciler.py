"""Make the node's set of bundles equal to the set that a signed checkpoint proves.

The stream of bundles repairs itself first; this is for the differences that remain. edge_sync
answers with unsigned digests and members: they are believed only as far as they hash to the signed
root. So nothing is dropped that a signature does not exclude.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

import structlog
from nats.aio.client import Client

from clients.edge_node import metrics
from clients.edge_node.bundles.versions import (
    BucketDifference,
    BundleVersions,
    proves_bucket,
    proves_root,
)
from clients.edge_node.serving.apply import BundleApplier
from clients.edge_node.serving.preparation import BundleChange
from shared import catalogue, subjects
from shared.contracts.edge import Checkpoint
from shared.contracts.queries import DigestAnswer, DigestQuestion
from shared.errors import BrokerAway, Refused
from shared.messaging.direct_get import StoredMessage, get_batch
from shared.messaging.rpc import ask

log = structlog.get_logger()
_STREAM = subjects.kv_stream(subjects.BUCKET_BUNDLES)
_CONCURRENT_READS = 32
_BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)


class AcceptStored(Protocol):
    """Verifies stored bundles and hands the newer ones to the applier."""

    def __call__(self, found: list[StoredMessage], *, repair: bool) -> Awaitable[None]: ...


class BundleReconciler:
    """Compares the node's set with a checkpoint's root, bucket by bucket.

    A root that stays different (the bucket holds a bundle that this node must refuse) is compared
    ever more rarely, every 30 s in the end."""

    def __init__(
        self,
        client: Client,
        versions: BundleVersions,
        applier: BundleApplier,
        accept_stored: AcceptStored,
    ) -> None:
        self._client = client
        self._versions = versions
        self._applier = applier
        self._accept_stored = accept_stored
        self._root = ""
        self._attempts = 0
        self._next_attempt_at = 0.0

    async def reconcile(self, checkpoint: Checkpoint) -> None:
        """Fetch the bundles that differ and drop the ones that the root excludes.

        Raises BrokerAway when edge_sync or the bucket does not answer."""
        if not self._is_due(checkpoint.root):
            return
        metrics.REPAIRS.labels("digest").inc()
        moment = self._versions.accepted_count()
        digests = (await self._ask_digest(DigestQuestion())).digests
        if not proves_root(digests, checkpoint.root):
            # The bucket has moved on, or the answer is forged: the next checkpoint decides.
            return
        # From here on the digests are proven. Members are proven bucket by bucket, and a bucket
        # whose members are not is left for the next attempt.
        difference = await self._find_difference(digests, moment)
        log.info("feed.reconciled", fetched=len(difference.fetch), dropped=len(difference.drop))
        await self._fetch_bundles(difference.fetch)
        for domain in difference.drop:
            self._versions.remove_domain(domain)
            self._applier.submit(BundleChange(domain, gone=True))

    def _is_due(self, root: str) -> bool:
        """Return whether ``root`` may be compared now, and note the attempt if so."""
        if root != self._root:
            self._root = root
            self._attempts = 0
            self._next_attempt_at = 0.0
        if time.monotonic() < self._next_attempt_at:
            return False
        self._attempts = min(self._attempts + 1, len(_BACKOFF_SECONDS) - 1)
        self._next_attempt_at = time.monotonic() + _BACKOFF_SECONDS[self._attempts]
        return True

    async def _find_difference(self, digests: list[str], moment: int) -> BucketDifference:
        fetch: list[str] = []
        drop: list[str] = []
        for bucket in self._versions.differing_buckets(digests):
            answer = await self._ask_digest(DigestQuestion(bucket=bucket))
            if proves_bucket(bucket, answer.members, digests[bucket]):
                difference = self._versions.compare_bucket(bucket, answer.members, moment)
                fetch += difference.fetch
                drop += difference.drop
        return BucketDifference(fetch, drop)

    async def _ask_digest(self, question: DigestQuestion) -> DigestAnswer:
        try:
            return await ask(self._client, catalogue.RPC_EDGE_DIGEST, question)
        except Refused as error:
            raise BrokerAway(f"edge_sync refused to send its digests: {error}") from None

    async def _fetch_bundles(self, domains: list[str]) -> None:
        slots = asyncio.Semaphore(_CONCURRENT_READS)

        async def fetch_bundle(domain: str) -> list[StoredMessage]:
            subject = subjects.kv_subject(subjects.BUCKET_BUNDLES, subjects.bundle_key(domain))
            async with slots:
                await self._applier.wait_for_room()
                return await get_batch(self._client, _STREAM, 1, 1, subject)

        for found in await asyncio.gather(*map(fetch_bundle, domains)):
            await self._accept_stored(found, repair=True)
