"""How bundles reach the node: live, by repair of a gap, and by the checkpoint, which proves the
whole set.

Nothing is believed that is not signed. A place in the stream is in no signature: it counts only
with a bundle that is signed and not behind ours, and what a hostile broker feigns with it, the
checkpoints show.
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
from clients.edge_node.bundles.replica import Position
from clients.edge_node.bundles.verify import SignedBundle, open_bundle
from clients.edge_node.bundles.versions import Desired, Version
from clients.edge_node.rejections import Drops
from clients.edge_node.serving.apply import Applier
from clients.edge_node.serving.preparation import Change
from clients.edge_node.sync.reconciler import Reconciler
from clients.edge_node.trust import Trusted
from shared import catalogue, subjects
from shared.contracts.edge import Checkpoint
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Poison, Transient, Unsigned
from shared.messaging.direct_get import StoredMessage, get_batch, sequence_of

log = structlog.get_logger()
_STREAM = subjects.kv_stream(subjects.BUCKET_BUNDLES)
_ALL = subjects.kv_subject(subjects.BUCKET_BUNDLES, ">")
_FETCH = 500
_STALE_SECONDS = 60.0
# Less than the above: a clock that ran ahead so far and was set right makes no node stale.
_AHEAD_SECONDS = 30.0
_SAY_SECONDS = 60.0
# Who floods a node fills no more of its memory; what is lost by it, a checkpoint shows.
_LIVE_BYTES, _LIVE_MESSAGES = 64 * 1024 * 1024, 20_000
_CHECKPOINT_BYTES, _CHECKPOINT_MESSAGES = 1024 * 1024, 100
_PAUSE_SECONDS = 0.05


class Feed:
    """``position``: where the replica ends. Lives as long as the agent; ``run`` as long as a
    connection."""

    def __init__(
        self, trusted: Trusted, desired: Desired, applier: Applier, position: Position
    ) -> None:
        self._trusted, self._desired, self._applier = trusted, desired, applier
        self.incarnation, self.sequence = position.incarnation, position.sequence
        self._newest = position.checkpoint
        self._checkpoint: Checkpoint | None = None
        self._is_fresh = False
        self._ahead: int | None = None
        self._feigned = False
        self._drops = Drops("feed.dropped")
        self._heard = time.monotonic()
        self._clock_said = -_SAY_SECONDS
        self.flush_seconds = 1.0
        self.in_sync = False
        self._work = asyncio.Event()
        self._gap = False

    @property
    def stale(self) -> bool:
        """60 s without a valid checkpoint of now."""
        return time.monotonic() - self._heard > _STALE_SECONDS

    def position(self) -> Position:
        """Up to where everything is applied, proven and in the replica."""
        oldest = self._applier.oldest_unsettled()
        sequence = self.sequence if oldest is None else min(self.sequence, oldest - 1)
        return Position(self.incarnation, sequence, self._newest)

    async def run(self, client: Client) -> None:
        """Listens and repairs until cancelled."""
        live = await client.subscribe(
            catalogue.EDGE_LIVE,
            cb=self._on_live,
            pending_msgs_limit=_LIVE_MESSAGES,
            pending_bytes_limit=_LIVE_BYTES,
        )
        checkpoints = await client.subscribe(
            catalogue.EDGE_CHECKPOINT,
            cb=self._on_checkpoint,
            pending_msgs_limit=_CHECKPOINT_MESSAGES,
            pending_bytes_limit=_CHECKPOINT_BYTES,
        )
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
        key = message.subject.removeprefix(subjects.EDGE_LIVE_PREFIX)
        found = self._open(message.data, subjects.bundle_domain(key), self._verifier())
        if found is None:
            # if it stands in the stream, the next bundle or checkpoint shows the gap that it leaves
            return
        sequence = sequence_of(message.headers or {})
        held = self._desired.get(found.domain)
        if held is None or found.order >= held.order:
            self._moves_to(sequence)
        self._take(found, sequence)

    def _moves_to(self, sequence: int) -> None:
        if sequence == self.sequence + 1:
            self.sequence = sequence
        elif sequence > self.sequence:
            self._gap = True
            self._work.set()

    async def _on_checkpoint(self, message: Msg) -> None:
        try:
            verifier = self._trusted.verifier("edge_sync")
            checkpoint = verifier.open_bytes(Purpose.CHECKPOINT, message.data, Checkpoint)
        except Poison as error:
            self._dropped("checkpoint", error)
            return
        if not self._is_newer(checkpoint.time.timestamp(), time.time()):
            metrics.DROPPED.labels("checkpoint", "replayed").inc()
            return
        self._checkpoint = checkpoint
        self.flush_seconds = min(max(checkpoint.flush_seconds, 0.2), 60.0)
        self._trusted.expect_epoch(checkpoint.epoch)
        if self._is_fresh:
            self._heard = time.monotonic()
            self._feigned |= self._is_unreached(checkpoint)
        if self._feigned or self._differs(checkpoint):
            self._work.set()
        elif self._is_fresh and checkpoint.sequence == self.sequence:
            self.in_sync = True

    def _is_newer(self, made: float, now: float) -> bool:
        """Takes note of a checkpoint's time; False when one as new was believed before: the same,
        said again."""
        if self._newest > now + _AHEAD_SECONDS:
            self._newest = (
                0.0  # noted by a clock that was set back since: it would refuse every later one
            )
        if made <= self._newest:
            return False
        self._is_fresh = -_STALE_SECONDS <= made - now <= _AHEAD_SECONDS
        if made <= now + _AHEAD_SECONDS:
            self._newest = made
        if not self._is_fresh and time.monotonic() - self._clock_said >= _SAY_SECONDS:
            self._clock_said = time.monotonic()
            log.error(
                "feed.clocks_differ",
                seconds=round(made - now),
                hint="a checkpoint came late, or this machine's "
                "clock or that of edge_sync is wrong: it counts as none",
            )
        return True

    def _is_unreached(self, checkpoint: Checkpoint) -> bool:
        """Whether edge_sync is not where we were at the checkpoint before: then no put accounts for
        our position. (At one checkpoint alone we may be ahead: a bundle reaches us before edge_sync
        knows that it was stored.)"""
        before, self._ahead = self._ahead, None
        if checkpoint.incarnation == self.incarnation and checkpoint.sequence < self.sequence:
            self._ahead = self.sequence
        return before is not None and self._ahead is not None and checkpoint.sequence < before

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
        elif checkpoint is not None and self._feigned and checkpoint.sequence < self.sequence:
            log.warning("feed.position_feigned", ours=self.sequence, signed=checkpoint.sequence)
            metrics.REPAIRS.labels("position").inc()
            self.sequence = checkpoint.sequence
        self._feigned = False
        if self._gap or (checkpoint is not None and checkpoint.sequence > self.sequence):
            self._gap = False
            metrics.REPAIRS.labels("gap").inc()
            await self._catch_up(client)
            if checkpoint is not None and checkpoint is self._checkpoint:
                # Signed: up to there the bucket holds nothing else (what is missing was replaced or
                # erased).
                self.sequence = max(self.sequence, checkpoint.sequence)
        newest = self._checkpoint
        # An old set must not undo a new one: what is not of now brings what is missing, and proves
        # and drops nothing.
        if newest is None or not self._is_fresh:
            return
        if newest.sequence == self.sequence and newest.incarnation == self.incarnation:
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
            lambda: [
                self._open(m.body, subjects.bundle_domain(m.subject[prefix:]), verifier)
                for m in found
            ]
        )
        for message, one in zip(found, opened, strict=True):
            if one is not None:
                self._take(one, message.sequence, repair=repair)

    def _take(self, signed: SignedBundle, sequence: int, *, repair: bool = False) -> None:
        if self._desired.offer(signed.domain, Version(signed.order, signed.hash), repair=repair):
            self._applier.submit(Change(signed.domain, signed, sequence=sequence))

    def _open(self, body: bytes, domain: str, verifier: Verifier) -> SignedBundle | None:
        if not body:
            # the bucket's own mark of a deletion: what is gone is told by the signed checkpoint
            return None
        try:
            return open_bundle(body, domain, verifier)
        except Poison as error:
            self._dropped("bundle", error)
            return None

    def _dropped(self, what: str, error: Poison) -> None:
        self._drops.note(what, error)
        if isinstance(error, Unsigned):
            self._trusted.want()

    def _verifier(self) -> Verifier:
        return self._trusted.verifier("edge_sync")
