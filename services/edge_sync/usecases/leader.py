"""One term of the replica that holds the lease: everything that only one may do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import structlog
from prometheus_client import Gauge, Histogram

from services.edge_sync.domain import fleet
from services.edge_sync.domain.bucket_index import Index
from services.edge_sync.domain.convergence import Moment
from services.edge_sync.settings import Settings
from services.edge_sync.store.bucket import Bucket
from services.edge_sync.store.database import Store
from services.edge_sync.usecases.bundle_writer import BundleWriter, ConfigReads
from services.edge_sync.usecases.convergence_tracker import Observer
from services.edge_sync.usecases.keyrings import SOURCE, Keyrings
from services.edge_sync.usecases.trust import Trusted
from shared import catalogue
from shared import subjects as s
from shared.clock import Clock
from shared.contracts.codec import parse
from shared.contracts.domains import DomainChanged
from shared.contracts.edge import Checkpoint, Converged, Lagging, NodeStatus
from shared.contracts.queries import ConvergenceView, DigestAnswer, FleetView, MaxRevision
from shared.crypto.signing import Purpose, Signer
from shared.errors import Poison
from shared.faults import describe
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.retry import retry
from shared.runtime import Runtime

log = structlog.get_logger()
COALESCE_SECONDS = 0.02
TICK_SECONDS = 0.25
SEAL_LOOK_SECONDS = 0.05
SAY_SECONDS = 3.0
EVENTS_AT_ONCE = 32
FORGET_SECONDS = 3600.0
PUT_SECONDS = Histogram(
    "edgetls_edge_put_seconds",
    "From a domain's event, as the stream stored it, to its bundle in the bucket.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 60),
)
CONVERGED_SECONDS = Histogram(
    "edgetls_edge_converged_seconds",
    "From submission to the proof of the slowest live node.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
)
LIVE_NODES = Gauge("edgetls_edge_live_nodes", "Enrolled, not drained, heard within 5 s.")
PENDING = Gauge(
    "edgetls_edge_pending_revisions", "Revisions that not every live node has proven yet."
)
SEQUENCE = Gauge("edgetls_edge_bucket_sequence", "The bucket's last sequence.")
_CONDITIONS = ("fleet", "bucket", "repair", "keyrings", "record", "seen", "sealing")


class Term:
    """``run`` ends when it is cancelled: the lease went elsewhere."""

    def __init__(
        self, runtime: Runtime[Settings], store: Store, trusted: Trusted, signer: Signer
    ) -> None:
        self._runtime, self._store, self._signer = runtime, store, signer
        self._settings, self._health, self._clock = runtime.settings, runtime.health, runtime.clock
        self._publisher: Publisher = runtime.publisher
        bundles = Bucket(runtime.client, s.BUCKET_BUNDLES)
        self._writer = BundleWriter(bundles, ConfigReads(runtime.client), signer, trusted)
        keyrings = Bucket(runtime.client, s.BUCKET_KEYRINGS)
        self._keyrings = Keyrings(store, keyrings, trusted, signer, self._clock, self._node_left)
        self._observer: Observer | None = None

    @property
    def observer(self) -> Observer | None:
        """None until the fleet and the bucket are known."""
        return self._observer

    async def run(self) -> None:
        try:
            await retry(self._keyrings.load, health=self._health, condition="fleet")
            await retry(self._writer.load, health=self._health, condition="bucket")
            pending = await retry(self._store.pending, health=self._health, condition="fleet")
            observer = Observer(
                self._keyrings.nodes, lambda: self._writer.index, self._settings, time.monotonic()
            )
            observer.resume(pending)
            self._observer = observer
            log.info("leading", domains=len(self._writer.index), pending=len(pending))
            async with asyncio.TaskGroup() as group:
                for task in (
                    self._live(observer),
                    self._orders(),
                    self._repair(),
                    self._checkpoints(),
                    self._tick(observer),
                    self._record(observer),
                    self._tell_progress(observer),
                    self._save_seen(observer),
                    self._seal(observer),
                    self._forget(),
                ):
                    group.create_task(task)
        finally:
            self._observer = None
            for condition in (*_CONDITIONS, *(f"{stream}/{durable}" for stream, durable in _PULLS)):
                self._health.ready(condition)

    # The loops

    async def _live(self, observer: Observer) -> None:
        """Each domain.changed: ask config, sign, put."""

        async def handle(delivery: Delivery) -> None:
            await self.change(delivery, observer)
            PUT_SECONDS.observe(
                max(0.0, (datetime.now(UTC) - delivery.stream_time).total_seconds())
            )

        pull = Pull(self._runtime.client, s.STREAM_EVENTS, s.DURABLE_EDGE_SYNC_DOMAINS)
        dead = DeadLetters(self._publisher, f"{s.STREAM_EVENTS}_edge_sync")
        await Consumer(pull, handle, dead, self._health, concurrency=EVENTS_AT_ONCE).run()

    async def change(self, delivery: Delivery, observer: Observer) -> None:
        """One domain.changed, delivered or replayed."""
        await self._deliver(parse(DomainChanged, delivery.body), observer)

    async def _deliver(self, change: DomainChanged, observer: Observer) -> None:
        try:
            row, desired = await asyncio.gather(
                self._store.open_watch(change), self._writer.desired(change.domain)
            )
        except Poison:
            # Its revision never reaches a node: it is watched all the same, to be told as lagging.
            refused = await self._store.open_watch(change)
            if refused is not None:
                observer.watch(refused)
            raise
        if desired is None or desired.revision < change.revision:
            log.warning("change.unknown", domain=change.domain, revision=change.revision)
            await self._store.close_watch(change.domain, change.revision)
            return
        watch = None if row is None else observer.watch(row)
        observer.expect(desired)
        held = await self._writer.put(desired)
        if watch is not None:
            watch.stands_at(held.sequence, time.monotonic())

    async def _orders(self) -> None:
        """The operator's commands, in order."""
        pull = Pull(self._runtime.client, s.STREAM_FLEET, s.DURABLE_EDGE_SYNC_FLEET)
        dead = DeadLetters(self._publisher, s.STREAM_FLEET)
        await Consumer(pull, self._keyrings.handle, dead, self._health).run()

    async def _repair(self) -> None:
        """Keyrings first: they need nobody else, and config may be away."""
        lost = self._writer.lost
        while True:
            lost.clear()
            await retry(self._keyrings.reconcile, health=self._health, condition="keyrings")
            await retry(self._writer.repair, health=self._health, condition="repair")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.edge_sync_repair_seconds):
                    await lost.wait()

    async def _checkpoints(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            index = await retry(self._writer.current, health=self._health, condition="bucket")
            if index is not None:
                SEQUENCE.set(index.sequence)
                signed = self._signer.sign(Purpose.CHECKPOINT, self._checkpoint(index))
                await self._publisher.publish_core(catalogue.EDGE_CHECKPOINT, signed.encode())
            due = max(due + self._settings.edge_sync_checkpoint_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    def _checkpoint(self, index: Index) -> Checkpoint:
        newest = self._keyrings.newest
        return Checkpoint(
            incarnation=index.incarnation,
            sequence=index.sequence,
            root=index.root(),
            domains=len(index),
            epoch=0 if newest is None else newest.epoch,
            time=self._clock.now(),
            flush_seconds=fleet.flush_seconds(
                sum(not n.removed for n in self._keyrings.nodes.values())
            ),
        )

    async def _tick(self, observer: Observer) -> None:
        while True:
            at = moment()
            observer.tick(at)
            LIVE_NODES.set(len(observer.live(at.mono)))
            PENDING.set(observer.pending)
            await asyncio.sleep(TICK_SECONDS)

    async def _record(self, observer: Observer) -> None:
        """Row and event in one transaction; what is lost here with the lease is found again by its
        pending row."""
        while True:
            body = await observer.settled.get()
            subject = (
                catalogue.EVENT_EDGE_CONVERGED
                if isinstance(body, Converged)
                else catalogue.EVENT_EDGE_LAGGING
            )
            event = outgoing(
                subject,
                body,
                source=SOURCE,
                about=body.domain,
                at=self._clock.now(),
                cause=body.command_id,
                id=derived_id(subject, body.domain, str(body.revision)),
            )
            if isinstance(body, Converged):
                CONVERGED_SECONDS.observe(body.slowest_ms / 1000)
            await retry(partial(self._save, body, event), health=self._health, condition="record")

    async def _save(self, body: Converged | Lagging, event: Outgoing) -> None:
        if isinstance(body, Converged):
            await self._store.save_converged(body, event)
        else:
            await self._store.save_lagging(body, event)

    async def _tell_progress(self, observer: Observer) -> None:
        while True:
            await observer.progressed.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            observer.progressed.clear()
            told, observer.progress = observer.progress, {}
            for body in told.values():
                await self._publisher.publish_core(catalogue.EDGE_PROGRESS, body.encode())

    async def _save_seen(self, observer: Observer) -> None:
        while True:
            await asyncio.sleep(self._settings.edge_sync_seen_seconds)
            await self._save_rows(observer.unsaved())

    async def _save_rows(self, rows: Sequence[tuple[str, datetime, int]]) -> None:
        """A row that the database refuses ends nothing and keeps no other back."""
        try:
            await retry(partial(self._store.save_seen, rows), health=self._health, condition="seen")
        except Exception as error:
            if len(rows) > 1:
                for row in rows:
                    await self._save_rows([row])
                return
            log.error("seen.refused", node=rows[0][0] if rows else "", error=describe(error))

    async def _seal(self, observer: Observer) -> None:
        """``sealing`` moves to the newest epoch once the live nodes confirmed it, or waited long
        enough; it is said again every few seconds."""
        said = -math.inf
        while True:
            newest = self._keyrings.newest
            if newest is not None and newest.sealing is None:
                confirmed = observer.epochs(time.monotonic())
                if fleet.may_seal(
                    newest, confirmed, self._clock.now(), self._settings.edge_sync_sealing_seconds
                ):
                    await retry(
                        partial(self._keyrings.seal_to, newest),
                        health=self._health,
                        condition="sealing",
                    )
                    said = time.monotonic()
            if time.monotonic() - said >= SAY_SECONDS:
                await retry(self._keyrings.say_sealing, health=self._health, condition="sealing")
                said = time.monotonic()
            await asyncio.sleep(SEAL_LOOK_SECONDS)

    async def _forget(self) -> None:
        while True:
            await retry(self._store.forget_old, health=self._health, condition="record")
            await asyncio.sleep(FORGET_SECONDS)

    def _node_left(self, node: str) -> None:
        if self._observer is not None:
            self._observer.forget(node)

    # What is asked and told

    def heard(self, node: str, status: NodeStatus) -> None:
        """``node``: who may publish on the subject it came on; it speaks for itself only."""
        if self._observer is not None and status.node == node:
            self._observer.heard(status, moment())

    async def max_revision(self) -> MaxRevision:
        return MaxRevision(
            revision=max(self._writer.index.max_revision(), await self._store.max_revision())
        )

    def digest(self, bucket: int | None) -> DigestAnswer:
        index = self._writer.index
        return DigestAnswer(
            incarnation=index.incarnation,
            sequence=index.sequence,
            digests=index.digests() if bucket is None else [],
            members=[] if bucket is None else index.members(bucket),
        )

    async def convergence(self, domain: str, observer: Observer) -> ConvergenceView:
        held, last = self._writer.index.get(domain), await self._store.last_converged(domain)
        proven, missing = observer.proof_of(domain, time.monotonic())
        return ConvergenceView(
            domain=domain,
            revision=held.revision if held is not None and held.valid else None,
            converged_revision=None if last is None else last.revision,
            converged_ms=None if last is None else last.slowest_ms,
            proven=proven,
            missing=missing,
        )

    def fleet(self, observer: Observer) -> FleetView:
        index, newest, sealing = self._writer.index, self._keyrings.newest, self._keyrings.sealing
        return FleetView(
            nodes=observer.views(time.monotonic()),
            epoch=0 if newest is None else newest.epoch,
            sealing_epoch=0 if sealing is None else sealing.epoch,
            sealing=self._keyrings.sealing_word,
            sequence=index.sequence,
            domains=len(index),
        )


_PULLS = (
    (s.STREAM_EVENTS, s.DURABLE_EDGE_SYNC_DOMAINS),
    (s.STREAM_FLEET, s.DURABLE_EDGE_SYNC_FLEET),
)


def moment() -> Moment:
    """Now: without a test's offset, for it is compared with the times of streams."""
    return Moment(Clock().now(), time.monotonic())
