"""Answer the queries about the fleet, the bucket and convergence."""

from __future__ import annotations

import time

from services.edge_sync.domain.fleet import FleetState
from services.edge_sync.store.convergences import ConvergenceStore
from services.edge_sync.usecases.bundle_writer import BundleWriter
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from services.edge_sync.usecases.keyrings import KeyringWriter
from shared.contracts.queries import (
    ConvergenceView,
    DigestAnswer,
    DigestQuestion,
    FleetView,
    MaxRevision,
    Nothing,
    ShowConvergence,
)


class EdgeQueries:
    """Answers from the memory of the leader; a standby must not answer."""

    def __init__(
        self,
        fleet: FleetState,
        store: ConvergenceStore,
        writer: BundleWriter,
        keyrings: KeyringWriter,
        tracker: ConvergenceTracker,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._writer = writer
        self._keyrings = keyrings
        self._tracker = tracker

    async def show_max_revision(self, question: Nothing) -> MaxRevision:
        """Return the highest revision that the fleet was ever given. Config asks at its start."""
        in_bucket = self._writer.index.max_revision()
        return MaxRevision(revision=max(in_bucket, await self._store.max_revision()))

    async def show_digest(self, question: DigestQuestion) -> DigestAnswer:
        """Return the digest of every bucket, or the members of one.

        By these a node finds which of its bundles differ."""
        index = self._writer.index
        digests: list[str] = []
        members = []
        if question.bucket is None:
            digests = index.digests()
        else:
            members = index.members(question.bucket)
        return DigestAnswer(
            incarnation=index.incarnation,
            sequence=index.sequence,
            digests=digests,
            members=members,
        )

    async def show_convergence(self, question: ShowConvergence) -> ConvergenceView:
        """Return which live nodes have proven a domain's newest revision, and its last converged
        one."""
        last = await self._store.find_last_converged(question.domain)
        stored = self._writer.index.get(question.domain)
        proven, missing = self._tracker.find_proven(question.domain, time.monotonic())
        return ConvergenceView(
            domain=question.domain,
            revision=stored.revision if stored is not None and stored.valid else None,
            converged_revision=None if last is None else last.revision,
            converged_ms=None if last is None else last.slowest_ms,
            proven=proven,
            missing=missing,
        )

    async def show_fleet(self, question: Nothing) -> FleetView:
        """Return every node with its state and epochs."""
        index = self._writer.index
        sealing = self._fleet.sealing_epoch
        return FleetView(
            nodes=self._tracker.view_nodes(time.monotonic()),
            epoch=self._fleet.newest_number,
            sealing_epoch=0 if sealing is None else sealing.epoch,
            sealing=self._keyrings.sealing_statement,
            sequence=index.sequence,
            domains=len(index),
        )
