"""Receive bundles: live, by reading a gap from the bucket, and by the checkpoint, which proves the
whole set.

Nothing is believed that is not signed. A sequence in the stream is in no signature: it counts only
with a signed bundle that is not older than the held one. When a hostile broker forges sequences,
the checkpoints show it.
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
from clients.edge_node.bundles.replica import FeedPosition
from clients.edge_node.bundles.verify import SignedBundle, open_bundle
from clients.edge_node.bundles.versions import BundleVersion, BundleVersions
from clients.edge_node.rejections import RejectionLog
from clients.edge_node.serving.apply import BundleApplier
from clients.edge_node.serving.preparation import BundleChange
from clients.edge_node.sync.reconciler import BundleReconciler
from clients.edge_node.trust import NodeTrust
from shared import catalogue, subjects
from shared.contracts.edge import Checkpoint
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Poison, Transient, Unsigned
from shared.messaging.direct_get import StoredMessage, get_batch, sequence_of
from shared.retry import retry

log = structlog.get_logger()
_STREAM = subjects.kv_stream(subjects.BUCKET_BUNDLES)
_ALL_BUNDLES = subjects.kv_subject(subjects.BUCKET_BUNDLES, ">")
_SUBJECT_PREFIX = subjects.kv_subject(subjects.BUCKET_BUNDLES, "")
_MESSAGES_PER_READ = 500
_STALE_SECONDS = 60.0
# Less than the above: a clock that ran ahead so far and was set right makes no node stale.
_MAX_AHEAD_SECONDS = 30.0
_CLOCK_LOG_SECONDS = 60.0
# A sender that floods a node fills no more of its memory; what is lost by it, a checkpoint shows.
_LIVE_BYTES = 64 * 1024 * 1024
_LIVE_MESSAGES = 20_000
_CHECKPOINT_BYTES = 1024 * 1024
_CHECKPOINT_MESSAGES = 100
_REPAIR_PAUSE_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_MIN_FLUSH_SECONDS = 0.2
_MAX_FLUSH_SECONDS = 60.0


class BundleFeed:
    """The bundles that reach this node, and its position in their stream.

    ``position``: where the replica ends. The feed lives as long as the agent; `run` lives as long
    as a connection."""

    def __init__(
        self,
        trust: NodeTrust,
        versions: BundleVersions,
        applier: BundleApplier,
        position: FeedPosition,
    ) -> None:
        self._trust = trust
        self._versions = versions
        self._applier = applier
        self.incarnation = position.incarnation
        self.sequence = position.sequence
        self._newest_checkpoint_time = position.checkpoint
        self._checkpoint: Checkpoint | None = None
        self._checkpoint_is_current = False
        self._sequence_ahead: int | None = None
        self._position_is_refuted = False
        self._rejections = RejectionLog("feed.rejected")
        self._last_checkpoint_at = time.monotonic()
        self._clock_logged_at = -_CLOCK_LOG_SECONDS
        self.flush_seconds = 1.0
        self.in_sync = False
        self._repair_wanted = asyncio.Event()
        self._has_gap = False

    @property
    def stale(self) -> bool:
        """Return whether no current, valid checkpoint came for 60 s."""
        return time.monotonic() - self._last_checkpoint_at > _STALE_SECONDS

    def settled_position(self) -> FeedPosition:
        """Return the position up to which everything is applied, proven and in the replica."""
        sequence = self.sequence
        oldest = self._applier.oldest_unsettled()
        if oldest is not None:
            sequence = min(sequence, oldest - 1)
        return FeedPosition(self.incarnation, sequence, self._newest_checkpoint_time)

    async def run(self, client: Client) -> None:
        """Listen and repair until cancelled."""
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
        reconciler = BundleReconciler(client, self._versions, self._applier, self._accept_stored)
        # Bundles that were put before these subscriptions were not heard.
        self._has_gap = True
        self._repair_wanted.set()
        try:
            while True:
                await self._repair_wanted.wait()
                self._repair_wanted.clear()
                await retry(
                    lambda: self._repair(client, reconciler),
                    retry_on=lambda error: isinstance(error, Transient),
                    on_fault=_log_postponed,
                    first_delay=_RETRY_SECONDS,
                    longest_delay=_RETRY_SECONDS,
                )
                # At most 20 repairs a second, whatever arrives.
                await asyncio.sleep(_REPAIR_PAUSE_SECONDS)
        finally:
            with suppress(NatsError):
                await live.unsubscribe()
                await checkpoints.unsubscribe()

    async def _on_live(self, message: Msg) -> None:
        key = message.subject.removeprefix(subjects.EDGE_LIVE_PREFIX)
        signed = self._open(message.data, subjects.bundle_domain(key), self._edge_sync_verifier())
        if signed is None:
            # If it is in the stream, the next bundle or checkpoint shows the gap that it leaves.
            return
        sequence = sequence_of(message.headers or {})
        held = self._versions.get(signed.domain)
        if held is None or signed.order >= held.order:
            self._advance_to(sequence)
        self._accept(signed, sequence)

    def _advance_to(self, sequence: int) -> None:
        if sequence == self.sequence + 1:
            self.sequence = sequence
        elif sequence > self.sequence:
            self._has_gap = True
            self._repair_wanted.set()

    async def _on_checkpoint(self, message: Msg) -> None:
        try:
            verifier = self._edge_sync_verifier()
            checkpoint = verifier.open_bytes(Purpose.CHECKPOINT, message.data, Checkpoint)
        except Poison as error:
            self._reject("checkpoint", error)
            return
        if not self._accept_checkpoint_time(checkpoint.time.timestamp(), time.time()):
            metrics.REJECTED.labels("checkpoint", "replayed").inc()
            return
        self._checkpoint = checkpoint
        flush_seconds = max(checkpoint.flush_seconds, _MIN_FLUSH_SECONDS)
        self.flush_seconds = min(flush_seconds, _MAX_FLUSH_SECONDS)
        self._trust.expect_epoch(checkpoint.epoch)
        if self._checkpoint_is_current:
            self._last_checkpoint_at = time.monotonic()
            if self._refutes_position(checkpoint):
                self._position_is_refuted = True
        if self._position_is_refuted or self._differs_from(checkpoint):
            self._repair_wanted.set()
        elif self._checkpoint_is_current and checkpoint.sequence == self.sequence:
            self.in_sync = True

    def _accept_checkpoint_time(self, made: float, now: float) -> bool:
        """Note when a checkpoint was made, and whether it is current.

        Return False when one as new was believed before: then this one is a repetition."""
        if self._newest_checkpoint_time > now + _MAX_AHEAD_SECONDS:
            # Noted under a clock that was set back since: it would refuse every later checkpoint.
            self._newest_checkpoint_time = 0.0
        if made <= self._newest_checkpoint_time:
            return False
        self._checkpoint_is_current = -_STALE_SECONDS <= made - now <= _MAX_AHEAD_SECONDS
        if made <= now + _MAX_AHEAD_SECONDS:
            self._newest_checkpoint_time = made
        if not self._checkpoint_is_current:
            self._log_clock_difference(made - now)
        return True

    def _log_clock_difference(self, seconds: float) -> None:
        if time.monotonic() - self._clock_logged_at < _CLOCK_LOG_SECONDS:
            return
        self._clock_logged_at = time.monotonic()
        log.error(
            "feed.clocks_differed",
            seconds=round(seconds),
            hint="the checkpoint is ignored: it came late, or the clock of this machine or of "
            "edge_sync is wrong; check both clocks",
        )

    def _refutes_position(self, checkpoint: Checkpoint) -> bool:
        """Return whether two checkpoints in a row show that our position is beyond the bucket's.

        At one checkpoint alone we may be ahead: a bundle can reach us before edge_sync knows that
        it was stored. At the next one edge_sync must have reached our earlier position; if not, no
        put accounts for it."""
        ahead_before = self._sequence_ahead
        self._sequence_ahead = None
        if checkpoint.incarnation == self.incarnation and checkpoint.sequence < self.sequence:
            self._sequence_ahead = self.sequence
        if ahead_before is None or self._sequence_ahead is None:
            return False
        return checkpoint.sequence < ahead_before

    def _differs_from(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.incarnation != self.incarnation or checkpoint.sequence > self.sequence:
            return True
        if checkpoint.sequence < self.sequence:
            return False
        return checkpoint.root != self._versions.root_digest()

    async def _repair(self, client: Client, reconciler: BundleReconciler) -> None:
        # The invariant: every bundle up to (incarnation, sequence) was offered to `versions`, or
        # the bucket no longer holds it. So a repair moves the position only over what it has read,
        # or over what a signed checkpoint covers.
        # - A new incarnation is another stream: its sequences start again, so we read from 0.
        # - A refuted position goes back to the signed sequence: a forged one would hide puts.
        # - A gap is read from the bucket. What a full read up to a checkpoint did not find was
        #   replaced or erased, so the checkpoint's sequence is ours too. When a newer checkpoint
        #   came while we read, the next repair decides by that one.
        # - At equal positions the signed root decides about the whole set. Only a current
        #   checkpoint may: an old one that was held back would undo what came after it.
        checkpoint = self._checkpoint
        if checkpoint is not None:
            self._align_with(checkpoint)
        self._position_is_refuted = False
        if self._has_gap or (checkpoint is not None and checkpoint.sequence > self.sequence):
            self._has_gap = False
            metrics.REPAIRS.labels("gap").inc()
            await self._read_gap(client)
            if checkpoint is not None and checkpoint is self._checkpoint:
                self.sequence = max(self.sequence, checkpoint.sequence)
        newest = self._checkpoint
        if newest is None or not self._checkpoint_is_current:
            return
        if newest.sequence != self.sequence or newest.incarnation != self.incarnation:
            return
        self.in_sync = newest.root == self._versions.root_digest()
        if not self.in_sync:
            await reconciler.reconcile(newest)

    def _align_with(self, checkpoint: Checkpoint) -> None:
        """Adopt the checkpoint's incarnation, and give up a position that it refutes."""
        if not self.incarnation:
            self.incarnation = checkpoint.incarnation
        elif checkpoint.incarnation != self.incarnation:
            log.info("feed.resync_started", incarnation=checkpoint.incarnation)
            metrics.REPAIRS.labels("resync").inc()
            self.incarnation = checkpoint.incarnation
            self.sequence = 0
            self._has_gap = True
        elif self._position_is_refuted and checkpoint.sequence < self.sequence:
            log.warning("feed.position_refuted", ours=self.sequence, signed=checkpoint.sequence)
            metrics.REPAIRS.labels("position").inc()
            self.sequence = checkpoint.sequence

    async def _read_gap(self, client: Client) -> None:
        """Read from the position to the end of the bucket's stream."""
        while True:
            await self._applier.wait_for_room()
            found = await get_batch(
                client, _STREAM, self.sequence + 1, _MESSAGES_PER_READ, _ALL_BUNDLES
            )
            if not found:
                return
            await self._accept_stored(found, repair=False)
            self.sequence = max(self.sequence, found[-1].sequence)

    async def _accept_stored(self, found: list[StoredMessage], *, repair: bool) -> None:
        verifier = self._edge_sync_verifier()
        opened = await asyncio.to_thread(self._open_stored, found, verifier)
        for signed, sequence in opened:
            self._accept(signed, sequence, repair=repair)

    def _open_stored(
        self, found: list[StoredMessage], verifier: Verifier
    ) -> list[tuple[SignedBundle, int]]:
        """Open stored messages; return the valid bundles with their sequences. Blocking."""
        opened = []
        for message in found:
            domain = subjects.bundle_domain(message.subject[len(_SUBJECT_PREFIX) :])
            signed = self._open(message.body, domain, verifier)
            if signed is not None:
                opened.append((signed, message.sequence))
        return opened

    def _accept(self, signed: SignedBundle, sequence: int, *, repair: bool = False) -> None:
        """Hand a bundle to the applier if it is newer than the held one."""
        version = BundleVersion(signed.order, signed.hash)
        if self._versions.accept_newer(signed.domain, version, repair=repair):
            self._applier.submit(BundleChange(signed.domain, signed, sequence=sequence))

    def _open(self, body: bytes, domain: str, verifier: Verifier) -> SignedBundle | None:
        """Check a bundle; return None when it is rejected."""
        if not body:
            # The bucket's own marker of a deletion. Only a signed checkpoint proves a deletion.
            return None
        try:
            return open_bundle(body, domain, verifier)
        except Poison as error:
            self._reject("bundle", error)
            return None

    def _reject(self, what: str, error: Poison) -> None:
        self._rejections.record(what, error)
        if isinstance(error, Unsigned):
            self._trust.request_refresh()

    def _edge_sync_verifier(self) -> Verifier:
        return self._trust.verifier("edge_sync")


def _log_postponed(error: Exception) -> None:
    log.warning("feed.repair_postponed", error=str(error))
