"""Makes the node's set equal to what a signed checkpoint proves, when the streams of bundles did
not.

The digests and members that edge_sync answers with are unsigned: they are believed as far as they
hash to the signed root. So nothing is dropped that a signature does not exclude.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

import structlog
from nats.aio.client import Client

from clients.edge_node import metrics
from clients.edge_node.bundles.versions import Desired, proves_bucket, proves_root
from clients.edge_node.serving.apply import Applier
from clients.edge_node.serving.preparation import Change
from shared import catalogue, subjects
from shared.contracts.edge import Checkpoint
from shared.contracts.queries import DigestAnswer, DigestQuestion
from shared.errors import BrokerAway, Refused
from shared.messaging.direct_get import StoredMessage, get_batch
from shared.messaging.rpc import ask

log = structlog.get_logger()
_STREAM = subjects.kv_stream(subjects.BUCKET_BUNDLES)
_AT_ONCE = 32
_PATIENCE = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)


class TakeStored(Protocol):
    def __call__(self, found: list[StoredMessage], *, repair: bool) -> Awaitable[None]: ...


class Reconciler:
    """A root that stays different (a bundle that this node must refuse) is looked into ever more
    seldom."""

    def __init__(
        self, client: Client, desired: Desired, applier: Applier, take: TakeStored
    ) -> None:
        self._client, self._desired, self._applier, self._take = client, desired, applier, take
        self._root, self._tries, self._next = "", 0, 0.0

    async def repair(self, checkpoint: Checkpoint) -> None:
        """Fetches what differs and drops what is not there. Raises BrokerAway when nobody
        answers."""
        if checkpoint.root != self._root:
            self._root, self._tries, self._next = checkpoint.root, 0, 0.0
        if time.monotonic() < self._next:
            return
        self._tries = min(self._tries + 1, len(_PATIENCE) - 1)
        self._next = time.monotonic() + _PATIENCE[self._tries]
        metrics.REPAIRS.labels("digest").inc()
        mark = self._desired.mark()
        digests = (await self._ask(DigestQuestion())).digests
        if not proves_root(digests, checkpoint.root):
            return  # the bucket has moved on, or the answer is no answer: the next checkpoint tells
        fetch, drop = await self._differences(digests, mark)
        log.info("feed.reconciled", fetched=len(fetch), dropped=len(drop))
        await self._fetch(fetch)
        for domain in drop:
            self._desired.drop(domain)
            self._applier.submit(Change(domain, gone=True))

    async def _differences(self, digests: list[str], mark: int) -> tuple[list[str], list[str]]:
        fetch: list[str] = []
        drop: list[str] = []
        for bucket in self._desired.differing(digests):
            answer = await self._ask(DigestQuestion(bucket=bucket))
            if proves_bucket(bucket, answer.members, digests[bucket]):
                missing, extra = self._desired.compare(bucket, answer.members, mark)
                fetch += missing
                drop += extra
        return fetch, drop

    async def _ask(self, question: DigestQuestion) -> DigestAnswer:
        try:
            return await ask(self._client, catalogue.RPC_EDGE_DIGEST, question)
        except Refused as error:
            raise BrokerAway(f"edge_sync does not tell its digests: {error}") from None

    async def _fetch(self, domains: list[str]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def fetch(domain: str) -> list[StoredMessage]:
            subject = subjects.kv_subject(subjects.BUCKET_BUNDLES, subjects.bundle_key(domain))
            async with slots:
                await self._applier.room()
                return await get_batch(self._client, _STREAM, 1, 1, subject)

        for found in await asyncio.gather(*map(fetch, domains)):
            await self._take(found, repair=True)
