"""Verified bundles into nginx: opened, load-checked, put, and proven by a real local handshake
before they count.

Several domains at once, one bundle of a domain at a time, the newest waiting one next. What is not
proven is undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from clients.edge_node import metrics
from clients.edge_node.bundles.replica import Replica, Tombstone, why
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.serving.origins import Origins
from clients.edge_node.serving.preparation import Change, Fault, Work, Workshop
from clients.edge_node.serving.prover import Prover, UnprovenError
from clients.edge_node.trust import Trusted
from shared.contracts.edge import BundleKind, Proof
from shared.crypto.digest import Digest

log = structlog.get_logger()
_BATCH = 256
_BATCHES_AT_ONCE = 4
_ROOM = 2000
_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class Applied:
    """What is proven of a domain. ``addresses``: what nginx was given for ``origin``."""

    leaves: frozenset[str]
    origin: str
    addresses: tuple[str, ...]


class Applier:
    """``handshake_at``: (host, port) of the node's own HTTPS. ``on_proof`` gets proofs and
    faults."""

    def __init__(
        self,
        plane: DataPlane,
        replica: Replica,
        trusted: Trusted,
        handshake_at: tuple[str, int],
        on_proof: Callable[[Proof], None],
        *,
        allow_private_origins: bool,
    ) -> None:
        self._plane, self._replica, self._on_proof = plane, replica, on_proof
        self._workshop = Workshop(replica, trusted)
        self._prover = Prover(*handshake_at, self._leaves_of)
        self._origins = Origins(allow_private_origins, self._origin_changed)
        self._pending: dict[str, Change] = {}
        self._busy: dict[str, Change] = {}
        self._failed: dict[str, Change] = {}
        self.faults: dict[str, Proof] = {}
        self.proven = Digest()
        self._applied: dict[str, Applied] = {}
        self._wake, self._up, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._boot = ""

    def submit(self, change: Change) -> None:
        """Whoever submits has ordered the bundles of a domain: the last new one wins."""
        if change.is_new:
            self._failed.pop(change.domain, None)
        elif change.domain in self._pending:
            return
        self._pending[change.domain] = change
        self._wake.set()

    def oldest_unsettled(self) -> int | None:
        """The lowest sequence that is neither proven nor reported as a fault yet."""
        waiting = (
            c.sequence
            for group in (self._pending, self._busy)
            for c in group.values()
            if c.sequence
        )
        return min(waiting, default=None)

    async def room(self) -> None:
        """Waits until fewer than 2,000 bundles wait: a first sync must not hold the whole bucket in
        memory."""
        while len(self._pending) > _ROOM:
            self._settled.clear()
            await self._settled.wait()

    def nginx_down(self) -> None:
        self._up.clear()

    def nginx_up(self, boot: str) -> None:
        """``boot``: the id of nginx's memory. A new one holds nothing: the caller refills it."""
        if boot != self._boot:
            self._boot = boot
            self._applied.clear()
            self.proven = Digest()
        self._up.set()
        self._wake.set()

    def refill(self, domains: Iterable[str], tombstones: Mapping[str, Tombstone]) -> None:
        """Puts what the replica holds of ``domains``; tombstones need no proof in an nginx that
        holds nothing."""
        for domain, tombstone in tombstones.items():
            self.proven.put(domain, tombstone.revision, tombstone.hash)
        for domain in domains:
            self.submit(Change(domain))

    def retry(self) -> None:
        """Tries once more what failed: a keyring or a trust document came."""
        for change in list(self._failed.values()):
            self.submit(change)

    async def keep_retrying(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            self.retry()

    async def keep_origins_fresh(self) -> None:
        await self._origins.keep_fresh(
            lambda: {a.origin for a in self._applied.values() if a.origin}
        )

    async def run(self) -> None:
        slots = asyncio.Semaphore(_BATCHES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._up.wait()
                await slots.acquire()
                if batch := self._take():
                    group.create_task(self._batch(batch, slots))
                else:
                    slots.release()
                    self._wake.clear()
                    await self._wake.wait()

    def _take(self) -> list[Change]:
        free = (change for domain, change in self._pending.items() if domain not in self._busy)
        batch = [change for change, _ in zip(free, range(_BATCH), strict=False)]
        for change in batch:
            self._busy[change.domain] = self._pending.pop(change.domain)
        return batch

    async def _batch(self, changes: list[Change], slots: asyncio.Semaphore) -> None:
        """Makes room for the next batch once this one is put: a refill serves all domains before it
        has proven them."""
        try:
            try:
                works = await self._works(changes)
                faults = await self._put(works)
            finally:
                slots.release()
            results = await asyncio.gather(
                *(self._finish(work, faults.get(work.domain, "")) for work in works),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except DataPlaneError as error:
            # Not the bundles' fault: they wait until nginx is there, and hold back nothing that is
            # newer.
            log.warning("apply.nginx_away", error=str(error))
            self._up.clear()
            for change in self._unsettled(changes):
                waiting = self._pending.get(change.domain)
                if waiting is None or not waiting.is_new:
                    self._pending[change.domain] = change
        finally:
            for change in changes:
                self._release(change)

    def _unsettled(self, changes: list[Change]) -> list[Change]:
        return [change for change in changes if self._busy.get(change.domain) is change]

    def _release(self, change: Change) -> None:
        if self._busy.get(change.domain) is change:
            del self._busy[change.domain]
        self._settled.set()
        self._wake.set()

    async def _works(self, changes: list[Change]) -> list[Work]:
        found = await asyncio.to_thread(
            lambda: [self._workshop.prepare(change) for change in changes]
        )
        for change, one in zip(changes, found, strict=True):
            if isinstance(one, Fault):
                self._fail(one)
            elif one is None and change.domain in self._failed:
                self.submit(
                    self._failed[change.domain]
                )  # the disk did not take it: it is in memory only
        works = [one for one in found if isinstance(one, Work)]
        await self._resolve(works)
        return works

    async def _resolve(self, works: list[Work]) -> None:
        hosts = list({work.origin_host for work in works if work.origin_host})
        known = dict(
            zip(hosts, await asyncio.gather(*map(self._origins.addresses, hosts)), strict=True)
        )
        for work in works:
            work.addresses = known.get(work.origin_host, ())

    async def _put(self, works: list[Work]) -> dict[str, str]:
        """Why a domain was not put, for those."""
        # The sealed pair leaves the disk before anything else: no crash from here on can bring it
        # back.
        unstored = await self._store([work for work in works if work.kind is not BundleKind.HTTPS])
        entries = {work.domain: work.entry() for work in works}
        if gone := [domain for domain, entry in entries.items() if entry is None]:
            await self._plane.remove_many(gone)
        refused = await self._plane.put_many([entry for entry in entries.values() if entry])
        for work in works:
            work.pairs = ()  # nginx has them: no key in clear waits here for its proof
        return unstored | {
            name: f"nginx did not take it: {reason}" for name, reason in refused.items()
        }

    async def _finish(self, work: Work, fault: str) -> None:
        try:
            if fault:
                raise UnprovenError(fault)
            served = await self._prover.prove(work)
        except UnprovenError as error:
            # Put into one nginx and asked of the next: not the bundle's fault. DataPlaneError when
            # there is none now.
            if await self._plane.boot_id() != self._boot:
                raise DataPlaneError("nginx was started anew") from None
            await self._undo(work)
            self._fail(_fault(work, str(error)))
        else:
            self._succeed(work, served)
            if work.kind is BundleKind.HTTPS and (unstored := await self._store([work])):
                # Served, and proven; but a restart without the control plane would not bring it
                # back.
                self._fail(_fault(work, unstored[work.domain]))
        self._release(work.change)

    async def _store(self, works: list[Work]) -> dict[str, str]:
        """What went wrong with the disk, by domain. What came from the replica is there already."""
        new = [work for work in works if work.change.is_new]
        return await asyncio.to_thread(_store, self._replica, new) if new else {}

    async def _undo(self, work: Work) -> None:
        """Puts back what was served before an https bundle. What closes a domain is never
        undone."""
        if work.kind is not BundleKind.HTTPS:
            return
        before = await asyncio.to_thread(self._workshop.prepare, Change(work.domain))
        entry = None
        if isinstance(before, Work):
            await self._resolve([before])
            entry = before.entry()
        if entry is None:
            await self._plane.remove_many([work.domain])
        else:
            await self._plane.put_many([entry])

    def _succeed(self, work: Work, served: str | None) -> None:
        domain, signed = work.domain, work.signed
        if domain not in self._failed:
            self.faults.pop(domain, None)
            metrics.FAULTS.set(len(self.faults))
        if signed is None:
            self._forget(domain)
            return
        self.proven.put(domain, signed.bundle.revision, signed.hash)
        leaves = frozenset(leaf for _, leaf in work.leaves)
        self._applied[domain] = Applied(leaves, work.origin_host, work.addresses)
        metrics.APPLIED.labels(work.kind.value).inc()
        metrics.APPLY_SECONDS.observe(time.monotonic() - work.change.since)
        revision = signed.bundle.revision
        self._on_proof(
            Proof(domain=domain, revision=revision, applied_at=datetime.now(UTC), served=served)
        )
        if work.origin_host and self._origins.known(work.origin_host) != work.addresses:
            self.submit(Change(domain))

    def _fail(self, fault: Fault) -> None:
        domain = fault.change.domain
        log.error("apply.fault", domain=domain, revision=fault.revision, error=fault.why)
        if not fault.change.is_new:
            # The replica holds what nginx does not serve: not proven, whatever was proven of it
            # before.
            self._forget(domain)
        waiting = self._pending.get(domain)
        if waiting is None or not waiting.is_new:
            failed = self._failed.setdefault(domain, fault.change)
            self._failed[domain] = fault.change if fault.change.is_new else failed
        served = min(self._leaves_of(domain), default=None)
        proof = Proof(
            domain=domain,
            revision=fault.revision,
            applied_at=datetime.now(UTC),
            served=served,
            fault=fault.why,
        )
        self.faults[domain] = proof
        metrics.FAULTS.set(len(self.faults))
        self._on_proof(proof)

    def _forget(self, domain: str) -> None:
        self._applied.pop(domain, None)
        self.proven.drop(domain)

    def _leaves_of(self, domain: str) -> frozenset[str]:
        applied = self._applied.get(domain)
        return applied.leaves if applied else frozenset()

    def _origin_changed(self, host: str) -> None:
        for domain, applied in self._applied.items():
            if applied.origin == host and applied.addresses != self._origins.known(host):
                self.submit(Change(domain))


def _fault(work: Work, reason: str) -> Fault:
    return Fault(work.change, work.signed.bundle.revision if work.signed else 0, reason)


def _store(replica: Replica, works: list[Work]) -> dict[str, str]:
    """Blocking; why a domain is not on the disk, for those. No fault of one keeps another off
    it."""
    kept = {w.domain: w.signed.body for w in works if w.signed and w.kind is not BundleKind.REMOVED}
    tombstones = {
        w.domain: Tombstone(w.signed.bundle.revision, w.signed.bundle.epoch, w.signed.hash)
        for w in works
        if w.signed and w.kind is BundleKind.REMOVED
    }
    gone = [w.domain for w in works if w.signed is None]
    steps: tuple[tuple[Collection[str], Callable[[], dict[str, str]]], ...] = (
        (kept, lambda: replica.write(kept)),
        (tombstones, lambda: replica.bury(tombstones)),
        (gone, lambda: replica.drop(gone)),
    )
    faults: dict[str, str] = {}
    for domains, store in steps:
        try:
            faults |= store() if domains else {}
        except OSError as error:
            faults |= dict.fromkeys(domains, why(error))
    return faults
