"""Publish checkpoints: the signed digest of everything that the bucket of bundles holds."""

from __future__ import annotations

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.fleet import FleetState, flush_seconds
from services.edge_sync.metrics import BUCKET_SEQUENCE
from services.edge_sync.usecases.bundle_writer import BundleWriter
from shared import catalogue
from shared.clock import Clock
from shared.contracts.edge import Checkpoint
from shared.crypto.signing import Purpose, Signer
from shared.messaging.publisher import Publisher


class CheckpointPublisher:
    """Signs and publishes https.edge.checkpoint.v1."""

    def __init__(
        self,
        fleet: FleetState,
        writer: BundleWriter,
        publisher: Publisher,
        signer: Signer,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._writer = writer
        self._publisher = publisher
        self._signer = signer
        self._clock = clock

    async def publish_checkpoint(self) -> None:
        """Publish one checkpoint; none while the bucket may lack what config wants (decision
        0011)."""
        index = await self._writer.index_for_checkpoint()
        if index is None:
            return
        BUCKET_SEQUENCE.set(index.sequence)
        signed = self._signer.sign(Purpose.CHECKPOINT, self._build_checkpoint(index))
        await self._publisher.publish_core(catalogue.EDGE_CHECKPOINT, signed.encode())

    def _build_checkpoint(self, index: BucketIndex) -> Checkpoint:
        return Checkpoint(
            incarnation=index.incarnation,
            sequence=index.sequence,
            root=index.root(),
            domains=len(index),
            epoch=self._fleet.newest_number,
            time=self._clock.now(),
            flush_seconds=flush_seconds(self._fleet.count_remaining()),
        )
