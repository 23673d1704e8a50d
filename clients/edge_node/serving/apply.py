"""Apply verified bundles to nginx: prepared, put, and proven by a real local handshake before they
count.

Several domains at once, one bundle of a domain at a time, the newest waiting one next. A bundle
that cannot be proven is undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from clients.edge_node import metrics
from clients.edge_node.bundles.replica import Replica, Tombstone, describe_disk_error
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.serving.origins import OriginResolver
from clients.edge_node.serving.preparation import (
    ApplyFault,
    BundleChange,
    PreparedBundle,
    Preparer,
)
from clients.edge_node.serving.prover import HandshakeProver, UnprovenError
from clients.edge_node.trust import NodeTrust
from shared.contracts.edge import BundleKind, Proof
from shared.crypto.digest import Digest

log = structlog.get_logger()
_BATCH_SIZE = 256
_CONCURRENT_BATCHES = 4
_MAX_WAITING = 2000
_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class AppliedDomain:
    """The proven state of a domain. ``addresses``: the ones that nginx has for ``origin``."""

    leaves: frozenset[str]
    origin: str
    addresses: tuple[str, ...]


class BundleApplier:
    """Brings changes into nginx.

    ``handshake_at``: (host, port) of the node's own HTTPS. ``on_proof`` gets proofs and faults.
    ``proven``: the digest over all domains that are proven, tombstones included."""

    def __init__(
        self,
        data_plane: DataPlane,
        replica: Replica,
        trust: NodeTrust,
        handshake_at: tuple[str, int],
        on_proof: Callable[[Proof], None],
        *,
        allow_private_origins: bool,
    ) -> None:
        self._data_plane = data_plane
        self._replica = replica
        self._on_proof = on_proof
        self._preparer = Preparer(replica, trust)
        self._prover = HandshakeProver(*handshake_at, self._leaves_of)
        self._origins = OriginResolver(allow_private_origins, self._on_origin_change)
        self._pending: dict[str, BundleChange] = {}
        self._busy: dict[str, BundleChange] = {}
        self._failed: dict[str, BundleChange] = {}
        self._faulty_domains: set[str] = set()
        self._applied: dict[str, AppliedDomain] = {}
        self.proven = Digest()
        self._change_waits = asyncio.Event()
        self._nginx_is_up = asyncio.Event()
        self._change_settled = asyncio.Event()
        self._boot_id = ""

    def submit(self, change: BundleChange) -> None:
        """Queue a change. The caller has ordered the bundles of a domain: the last new one wins."""
        if change.is_new:
            self._failed.pop(change.domain, None)
        elif change.domain in self._pending:
            return
        self._pending[change.domain] = change
        self._change_waits.set()

    def submit_stored(self, domains: Iterable[str], tombstones: Mapping[str, Tombstone]) -> None:
        """Queue the stored bundles of ``domains``, for an nginx that holds nothing.

        Tombstones need no proof there: their domains cannot be served."""
        for domain, tombstone in tombstones.items():
            self.proven.put(domain, tombstone.revision, tombstone.hash)
        for domain in domains:
            self.submit(BundleChange(domain))

    def oldest_unsettled(self) -> int | None:
        """Return the lowest sequence that is neither proven nor reported as a fault yet."""
        waiting = [*self._pending.values(), *self._busy.values()]
        return min((change.sequence for change in waiting if change.sequence), default=None)

    async def wait_for_room(self) -> None:
        """Wait until at most 2,000 bundles wait.

        A first sync must not hold the whole bucket in memory."""
        while len(self._pending) > _MAX_WAITING:
            self._change_settled.clear()
            await self._change_settled.wait()

    def mark_nginx_down(self) -> None:
        """Pause until `mark_nginx_up`."""
        self._nginx_is_up.clear()

    def mark_nginx_up(self, boot_id: str) -> None:
        """Go on. A new ``boot_id`` is an nginx that holds nothing; the caller refills it."""
        if boot_id != self._boot_id:
            self._boot_id = boot_id
            self._applied.clear()
            self.proven = Digest()
        self._nginx_is_up.set()
        self._change_waits.set()

    def retry_failed(self) -> None:
        """Submit the failed changes again, for example after a new keyring or trust document."""
        for change in list(self._failed.values()):
            self.submit(change)

    async def keep_retrying(self) -> None:
        """Submit the failed changes again every 30 s. Never returns."""
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            self.retry_failed()

    async def keep_origins_fresh(self) -> None:
        """Resolve the origins in use again and again. Never returns."""
        await self._origins.keep_fresh(
            lambda: {applied.origin for applied in self._applied.values() if applied.origin}
        )

    async def run(self) -> None:
        """Apply changes until cancelled, up to four batches at once."""
        slots = asyncio.Semaphore(_CONCURRENT_BATCHES)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._nginx_is_up.wait()
                await slots.acquire()
                if batch := self._take_batch():
                    group.create_task(self._apply_batch(batch, slots))
                else:
                    slots.release()
                    self._change_waits.clear()
                    await self._change_waits.wait()

    def _take_batch(self) -> list[BundleChange]:
        """Move up to 256 pending changes, of domains that are not busy, to the busy ones."""
        batch: list[BundleChange] = []
        for domain, change in self._pending.items():
            if len(batch) == _BATCH_SIZE:
                break
            if domain not in self._busy:
                batch.append(change)
        for change in batch:
            self._busy[change.domain] = self._pending.pop(change.domain)
        return batch

    async def _apply_batch(self, changes: list[BundleChange], slots: asyncio.Semaphore) -> None:
        # The invariant: from `_take_batch` to `_release` a domain is in `_busy`, so one bundle of
        # it at a time is under way, and its changes reach nginx in the order of submission.
        # Each change of the batch ends in exactly one way:
        # - proven: it is in `proven`, whose root this node reports;
        # - faulty: the fault is reported, and the change is kept for a retry;
        # - nginx went away: it goes back to `_pending`, unless a newer change waits there. This is
        #   no fault of the bundle.
        # `oldest_unsettled` counts pending and busy changes, so the saved position never passes a
        # change that is not settled: after a crash it is read again.
        # The slot is free after the put, before the proofs: a refill serves all domains before it
        # has proven them.
        try:
            try:
                prepared = await self._prepare_all(changes)
                faults = await self._put_all(prepared)
            finally:
                slots.release()
            results = await asyncio.gather(
                *(self._settle(one, faults.get(one.domain, "")) for one in prepared),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except DataPlaneError as error:
            log.warning("apply.postponed", error=str(error))
            self._nginx_is_up.clear()
            self._requeue_unsettled(changes)
        finally:
            for change in changes:
                self._release(change)

    def _requeue_unsettled(self, changes: list[BundleChange]) -> None:
        for change in changes:
            if self._busy.get(change.domain) is not change:
                continue
            if not self._newer_change_waits(change.domain):
                self._pending[change.domain] = change

    def _newer_change_waits(self, domain: str) -> bool:
        waiting = self._pending.get(domain)
        return waiting is not None and waiting.is_new

    def _release(self, change: BundleChange) -> None:
        if self._busy.get(change.domain) is change:
            del self._busy[change.domain]
        self._change_settled.set()
        self._change_waits.set()

    async def _prepare_all(self, changes: list[BundleChange]) -> list[PreparedBundle]:
        """Prepare the changes; report the faults, return the others."""
        results = await asyncio.to_thread(lambda: list(map(self._preparer.prepare, changes)))
        prepared = []
        for change, result in zip(changes, results, strict=True):
            if isinstance(result, PreparedBundle):
                prepared.append(result)
            elif isinstance(result, ApplyFault):
                self._report_fault(result)
            elif change.domain in self._failed:
                # The disk did not take the bundle: it is in memory only.
                self.submit(self._failed[change.domain])
        await self._resolve_origins(prepared)
        return prepared

    async def _resolve_origins(self, prepared: list[PreparedBundle]) -> None:
        hosts = list({one.origin_host for one in prepared if one.origin_host})
        found = await asyncio.gather(*map(self._origins.get_addresses, hosts))
        addresses = dict(zip(hosts, found, strict=True))
        for one in prepared:
            one.addresses = addresses.get(one.origin_host, ())

    async def _put_all(self, prepared: list[PreparedBundle]) -> dict[str, str]:
        """Put the bundles into nginx. Return the faults by domain."""
        # The sealed pair leaves the disk before anything else: no crash from here on can bring it
        # back.
        closing = [one for one in prepared if one.kind is not BundleKind.HTTPS]
        faults = await self._store(closing)
        removed = []
        entries = []
        for one in prepared:
            entry = one.make_entry()
            if entry is None:
                removed.append(one.domain)
            else:
                entries.append(entry)
        if removed:
            await self._data_plane.remove_many(removed)
        refused = await self._data_plane.put_many(entries)
        for one in prepared:
            # nginx has the pairs: no key in clear waits here for its proof.
            one.pairs = ()
        for domain, reason in refused.items():
            faults[domain] = f"nginx did not take it: {reason}"
        return faults

    async def _settle(self, prepared: PreparedBundle, fault: str) -> None:
        """Prove a bundle that was put and record it, or undo it and report the fault."""
        try:
            if fault:
                raise UnprovenError(fault)
            served = await self._prover.prove(prepared)
        except UnprovenError as error:
            # A bundle that was put into one nginx and proven with the next one is no fault of the
            # bundle. Without an nginx boot_id() raises DataPlaneError too.
            if await self._data_plane.boot_id() != self._boot_id:
                raise DataPlaneError("nginx was restarted") from None
            await self._undo(prepared)
            self._report_fault(ApplyFault(prepared.change, prepared.revision, str(error)))
        else:
            self._record_proof(prepared, served)
            if prepared.kind is BundleKind.HTTPS:
                unstored = await self._store([prepared])
                if unstored:
                    # It is served and proven, but a restart without the control plane would not
                    # bring it back.
                    reason = unstored[prepared.domain]
                    self._report_fault(ApplyFault(prepared.change, prepared.revision, reason))
        self._release(prepared.change)

    async def _store(self, prepared: list[PreparedBundle]) -> dict[str, str]:
        """Write new bundles to the replica. Return the faults of the disk by domain.

        Bundles that came from the replica are there already."""
        new = [one for one in prepared if one.change.is_new]
        if not new:
            return {}
        return await asyncio.to_thread(_store_bundles, self._replica, new)

    async def _undo(self, prepared: PreparedBundle) -> None:
        """Put back what was served before an https bundle.

        A bundle that closes a domain is never undone."""
        if prepared.kind is not BundleKind.HTTPS:
            return
        stored = BundleChange(prepared.domain)
        before = await asyncio.to_thread(self._preparer.prepare, stored)
        entry = None
        if isinstance(before, PreparedBundle):
            await self._resolve_origins([before])
            entry = before.make_entry()
        if entry is None:
            await self._data_plane.remove_many([prepared.domain])
        else:
            await self._data_plane.put_many([entry])

    def _record_proof(self, prepared: PreparedBundle, served: str | None) -> None:
        domain = prepared.domain
        if domain not in self._failed:
            self._faulty_domains.discard(domain)
            metrics.FAULTS.set(len(self._faulty_domains))
        if prepared.signed is None:
            self._forget_proven(domain)
            return
        self.proven.put(domain, prepared.revision, prepared.signed.hash)
        leaves = frozenset(leaf for _, leaf in prepared.leaves)
        self._applied[domain] = AppliedDomain(leaves, prepared.origin_host, prepared.addresses)
        metrics.APPLIED.labels(prepared.kind.value).inc()
        metrics.APPLY_SECONDS.observe(time.monotonic() - prepared.change.since)
        self._report_proof(domain, prepared.revision, served)
        if self._origins.known_addresses(prepared.origin_host) != prepared.addresses:
            self.submit(BundleChange(domain))

    def _report_fault(self, fault: ApplyFault) -> None:
        domain = fault.change.domain
        log.error("apply.failed", domain=domain, revision=fault.revision, error=fault.reason)
        if not fault.change.is_new:
            # nginx does not serve what the replica holds: so nothing is proven any more, whatever
            # was proven before.
            self._forget_proven(domain)
        if not self._newer_change_waits(domain) and (
            fault.change.is_new or domain not in self._failed
        ):
            self._failed[domain] = fault.change
        self._faulty_domains.add(domain)
        metrics.FAULTS.set(len(self._faulty_domains))
        served = min(self._leaves_of(domain), default=None)
        self._report_proof(domain, fault.revision, served, fault.reason)

    def _report_proof(
        self, domain: str, revision: int, served: str | None, fault: str | None = None
    ) -> None:
        self._on_proof(
            Proof(
                domain=domain,
                revision=revision,
                applied_at=datetime.now(UTC),
                served=served,
                fault=fault,
            )
        )

    def _forget_proven(self, domain: str) -> None:
        self._applied.pop(domain, None)
        self.proven.drop(domain)

    def _leaves_of(self, domain: str) -> frozenset[str]:
        applied = self._applied.get(domain)
        return applied.leaves if applied else frozenset()

    def _on_origin_change(self, host: str) -> None:
        addresses = self._origins.known_addresses(host)
        for domain, applied in self._applied.items():
            if applied.origin == host and applied.addresses != addresses:
                self.submit(BundleChange(domain))


def _store_bundles(replica: Replica, prepared: list[PreparedBundle]) -> dict[str, str]:
    """Bring the replica to the prepared bundles. Return the faults by domain. Blocking.

    A fault of one domain keeps no other domain off the disk."""
    bodies: dict[str, bytes] = {}
    tombstones: dict[str, Tombstone] = {}
    gone: list[str] = []
    for one in prepared:
        if one.signed is None:
            gone.append(one.domain)
        elif one.kind is BundleKind.REMOVED:
            bundle = one.signed.bundle
            tombstones[one.domain] = Tombstone(bundle.revision, bundle.epoch, one.signed.hash)
        else:
            bodies[one.domain] = one.signed.body
    faults = _store_step(bodies, lambda: replica.write_bundles(bodies))
    faults |= _store_step(tombstones, lambda: replica.add_tombstones(tombstones))
    faults |= _store_step(gone, lambda: replica.remove_domains(gone))
    return faults


def _store_step(domains: Collection[str], step: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return step() if domains else {}
    except OSError as error:
        return dict.fromkeys(domains, describe_disk_error(error))
