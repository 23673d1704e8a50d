"""How bundles reach the node: live, by repair of a gap, and by the checkpoint, which proves the whole set.

Nothing is believed that is not signed, and nothing that is unsigned moves the position for good: what a hostile
message hides or feigns, the next checkpoint shows.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from clients.edge_node import metrics
from clients.edge_node.apply import Applier
from clients.edge_node.desired import Desired, Version
from clients.edge_node.reconcile import Reconciler
from clients.edge_node.replica import Position
from clients.edge_node.trust import Trusted
from clients.edge_node.verify import SignedBundle, open_bundle
from clients.edge_node.work import Change
from shared import subjects
from shared.contracts.edge import Checkpoint
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Poison, Transient, Unsigned
from shared.messaging.direct import StoredMessage, get_batch

log = structlog.get_logger()
_STREAM = subjects.kv_stream(subjects.BUCKET_BUNDLES)
_ALL = subjects.kv_subject(subjects.BUCKET_BUNDLES, ">")
_FETCH = 500
_STALE_SECONDS = 60.0
_CLOCK_SLACK = 5.0
_PAUSE_SECONDS = 0.05


class Feed:
    """``position``: where the replica ends. Lives as long as the agent; ``run`` as long as a connection."""

    def __init__(self, trusted: Trusted, desired: Desired, applier: Applier, position: Position) -> None:
        self._trusted, self._desired, self._applier = trusted, desired, applier
        self.incarnation, self.sequence = position.incarnation, position.sequence
        self._newest = position.checkpoint
        self._checkpoint: Checkpoint | None = None
        self._heard = time.monotonic()
        self.flush_seconds = 1.0
        self.in_sync = False
        self._work = asyncio.Event()
        self._gap = False

    @property
    def stale(self) -> bool:
        """60 s without a valid checkpoint."""
        return time.monotonic() - self._heard > _STALE_SECONDS

    def position(self) -> Position:
        """Up to where everything is applied, proven and in the replica."""
        oldest = self._applier.oldest_unsettled()
        sequence = self.sequence if oldest is None else min(self.sequence, oldest - 1)
        return Position(self.incarnation, sequence, self._newest)

    async def run(self, client: Client) -> None:
        """Listens and repairs until cancelled."""
        live = await client.subscribe(subjects.EDGE_LIVE_ALL, cb=self._on_live)
        checkpoints = await client.subscribe(subjects.EDGE_CHECKPOINT, cb=self._on_checkpoint)
        reconciler = Reconciler(client, self._desired, self._applier, self._take_stored)
        self._gap = True  # what was put while nobody listened
        self._work.set()
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                try:
                    await self._repair(client, reconciler)
                except Transient as error:
                    log.warning("feed.away", error=str(error))
                    self._work.set()
                    await asyncio.sleep(1.0)
                # At most 20 repairs a second, whatever comes in.
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            with suppress(NatsError):
                await live.unsubscribe()
                await checkpoints.unsubscribe()

    async def _on_live(self, message: Msg) -> None:
        headers = message.headers or {}
        number = headers.get("Nats-Sequence", "")
        sequence = int(number) if number.isascii() and number.isdecimal() and len(number) < 20 else 0
        if sequence == self.sequence + 1:
            self.sequence = sequence
        elif sequence > self.sequence:
            self._gap = True
            self._work.set()
        key = message.subject.removeprefix(subjects.EDGE_LIVE_PREFIX)
        found = self._open(message.data, subjects.bundle_domain(key), self._verifier())
        if found is not None:
            self._take(found, sequence)

    async def _on_checkpoint(self, message: Msg) -> None:
        try:
            verifier = self._trusted.verifier("edge_sync")
            checkpoint = verifier.open_bytes(Purpose.CHECKPOINT, message.data, Checkpoint)
        except Poison as error:
            self._dropped("checkpoint", error)
            return
        time_of_it = checkpoint.time.timestamp()
        if time_of_it < self._newest:
            metrics.DROPPED.labels("checkpoint", "replayed").inc()
            return
        # A clock that runs far ahead and is set right must not make every later checkpoint look like a replay.
        self._newest = max(self._newest, min(time_of_it, time.time() + _CLOCK_SLACK))
        self._heard = time.monotonic()
        self._checkpoint = checkpoint
        self.flush_seconds = min(max(checkpoint.flush_seconds, 0.2), 60.0)
        self._trusted.expect_epoch(checkpoint.epoch)
        if self._differs(checkpoint):
            self._work.set()
        elif checkpoint.sequence == self.sequence:
            self.in_sync = True

    def _differs(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.incarnation != self.incarnation or checkpoint.sequence > self.sequence:
            return True
        return checkpoint.sequence == self.sequence and checkpoint.root != self._desired.root()

    async def _repair(self, client: Client, reconciler: Reconciler) -> None:
        checkpoint = self._checkpoint
        if checkpoint is not None and not self.incarnation:
            self.incarnation = checkpoint.incarnation
        elif checkpoint is not None and checkpoint.incarnation != self.incarnation:
            log.info("feed.resync", incarnation=checkpoint.incarnation)
            metrics.REPAIRS.labels("resync").inc()
            self.incarnation, self.sequence, self._gap = checkpoint.incarnation, 0, True
        if self._gap or (checkpoint is not None and checkpoint.sequence > self.sequence):
            self._gap = False
            metrics.REPAIRS.labels("gap").inc()
            await self._catch_up(client)
            if checkpoint is not None and checkpoint is self._checkpoint:
                # Signed: up to there the bucket holds nothing else (what is missing was replaced or erased).
                self.sequence = max(self.sequence, checkpoint.sequence)
        newest = self._checkpoint
        if newest is not None and newest.sequence == self.sequence and newest.incarnation == self.incarnation:
            if newest.root != self._desired.root():
                self.in_sync = False
                await reconciler.repair(newest)
            else:
                self.in_sync = True

    async def _catch_up(self, client: Client) -> None:
        """Reads from the position to the end of the bucket's stream."""
        while True:
            await self._applier.room()
            found = await get_batch(client, _STREAM, self.sequence + 1, _FETCH, _ALL)
            if not found:
                return
            await self._take_stored(found, repair=False)
            self.sequence = max(self.sequence, found[-1].sequence)

    async def _take_stored(self, found: list[StoredMessage], *, repair: bool) -> None:
        verifier = self._verifier()
        prefix = len(subjects.kv_subject(subjects.BUCKET_BUNDLES, ""))
        opened = await asyncio.to_thread(
            lambda: [self._open(m.body, subjects.bundle_domain(m.subject[prefix:]), verifier) for m in found]
        )
        for message, one in zip(found, opened, strict=True):
            if one is not None:
                self._take(one, message.sequence, repair=repair)

    def _take(self, signed: SignedBundle, sequence: int, *, repair: bool = False) -> None:
        if self._desired.offer(signed.domain, Version(signed.order, signed.hash), repair=repair):
            self._applier.submit(Change(signed.domain, signed, sequence=sequence))

    def _open(self, body: bytes, domain: str, verifier: Verifier) -> SignedBundle | None:
        if not body:
            return None  # the bucket's own mark of a deletion: what is gone is told by the signed checkpoint
        try:
            return open_bundle(body, domain, verifier)
        except Poison as error:
            self._dropped("bundle", error)
            return None

    def _dropped(self, what: str, error: Poison) -> None:
        metrics.DROPPED.labels(what, error.reason).inc()
        log.warning("feed.dropped", what=what, error=str(error))
        if isinstance(error, Unsigned):
            self._trusted.want()

    def _verifier(self) -> Verifier:
        return self._trusted.verifier("edge_sync")
