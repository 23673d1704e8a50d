"""Write the bucket of keyrings: what nodes and the validator need to know of keys.

It holds the operator's Signed enrolment of each node (``node.<id>``), the public key of each epoch
(``epoch.<n>``), the trust document (``trust``), all as the operator signed them, and the epoch to
seal to (``sealing``), signed by edge_sync. PostgreSQL is the truth: the bucket is made equal to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import structlog

from services.edge_sync.domain.fleet import EpochRecord, FleetState, may_seal
from services.edge_sync.store.bucket import KvBucket, WriteConflict
from services.edge_sync.store.fleet import FleetStore
from services.edge_sync.usecases.trust import CurrentTrust
from shared import subjects
from shared.clock import Clock
from shared.contracts.base import Signed
from shared.contracts.edge import SealingEpoch
from shared.crypto.signing import Purpose, Signer
from shared.errors import BrokerAway, Poison
from shared.messaging.direct_get import StoredMessage

log = structlog.get_logger()
REPEAT_SECONDS = 3.0
LiveEpochs = Callable[[], Mapping[str, frozenset[int]]]


class KeyringWriter:
    """The only writer of the bucket of keyrings.

    ``longest_wait_seconds``: how long a new epoch waits for the live nodes to confirm it.
    ``sealing_statement``: the last ``sealing`` that this leader published."""

    def __init__(
        self,
        fleet: FleetState,
        store: FleetStore,
        bucket: KvBucket,
        trust: CurrentTrust,
        signer: Signer,
        clock: Clock,
        longest_wait_seconds: float,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._bucket = bucket
        self._trust = trust
        self._signer = signer
        self._clock = clock
        self._longest_wait_seconds = longest_wait_seconds
        self._published_at = -math.inf
        self.sealing_statement: Signed | None = None

    def start_term(self) -> None:
        """Forget what this replica published when it was leader before."""
        self._published_at = -math.inf
        self.sealing_statement = None

    async def repair_bucket(self) -> None:
        """Make the bucket equal to the database, and erase the keyrings of removed nodes."""
        stored: dict[str, StoredMessage] = {}
        async for batch in self._bucket.read_from(1):
            for message in batch:
                stored[self._bucket.key_of(message)] = message
        for key, body in (await self._build_wanted()).items():
            message_before = stored.get(key)
            if message_before is None or message_before.body != body:
                await self._put(key, body, message_before)
        for node in self._fleet.nodes.values():
            leftover = stored.get(subjects.keyring_node(node.node))
            if node.removed and leftover is not None:
                await self._bucket.erase(leftover.sequence)

    async def write_node(self, node: str) -> None:
        """Put one node's keyring, or erase it when the node is removed."""
        known = self._fleet.nodes.get(node)
        if known is None:
            return
        key = subjects.keyring_node(node)
        if known.enrolment is not None:
            await self._write(key, known.enrolment)
            return
        stored = await self._bucket.last(key)
        if stored is not None:
            await self._bucket.erase(stored.sequence)

    async def write_epoch(self, epoch: EpochRecord) -> None:
        """Put one epoch's public key."""
        await self._write(subjects.keyring_epoch(epoch.epoch), epoch.key)

    async def write_trust(self) -> None:
        """Put the newest trust document."""
        document = await self._store.load_trust()
        if document is not None:
            await self._write(subjects.KEYRING_TRUST, document)

    async def update_sealing(self, live_epochs: LiveEpochs) -> None:
        """Move ``sealing`` to the newest epoch once pairs may be sealed to it. Repeat it every 3 s.

        To be called often. ``live_epochs`` returns the epochs that each live node has
        confirmed."""
        newest = self._fleet.newest_epoch
        if newest is not None and newest.sealing is None and self._may_move(newest, live_epochs):
            await self._move_sealing(newest)
        if time.monotonic() - self._published_at >= REPEAT_SECONDS:
            await self._publish_sealing()

    def _may_move(self, newest: EpochRecord, live_epochs: LiveEpochs) -> bool:
        now = self._clock.now()
        return may_seal(newest, live_epochs(), now, self._longest_wait_seconds)

    async def _move_sealing(self, newest: EpochRecord) -> None:
        await self._store.save_sealing(newest.epoch, self._sign_sealing(newest).encode())
        self._fleet.epochs = await self._store.load_epochs()
        await self._publish_sealing()
        log.info("epoch.sealing", epoch=newest.epoch)

    async def _publish_sealing(self) -> None:
        """Publish the signed sealing epoch with the current time. Refuse to publish a lower epoch
        than the bucket holds."""
        # The validator takes no statement that is older than a minute, so this one is repeated
        # (decision 0009). The database may name a lower epoch than the bucket: this replica was
        # stopped for a while, or the database was restored from a copy. The operator may have
        # destroyed the key of that lower epoch, and what is sealed to it would be lost.
        epoch = self._fleet.sealing_epoch
        if epoch is not None:
            stored = await self._bucket.last(subjects.KEYRING_SEALING)
            if stored is not None and self._read_sealing(stored.body) > epoch.epoch:
                self._fleet.epochs = await self._store.load_epochs()
                log.error(
                    "epoch.behind",
                    epoch=epoch.epoch,
                    do="if this repeats, run: edgetls fleet rotate",
                )
            else:
                self.sealing_statement = self._sign_sealing(epoch)
                await self._put(subjects.KEYRING_SEALING, self.sealing_statement.encode(), stored)
        self._published_at = time.monotonic()

    def _sign_sealing(self, epoch: EpochRecord) -> Signed:
        # Plain time, without a test's offset: the validator compares it with its own.
        body = SealingEpoch(epoch=epoch.epoch, at=Clock().now())
        return self._signer.sign(Purpose.SEALING, body)

    def _read_sealing(self, body: bytes) -> int:
        """Return the epoch of a sealing statement, 0 when edge_sync did not sign it."""
        try:
            return self._trust.edge_sync.open_bytes(Purpose.SEALING, body, SealingEpoch).epoch
        except Poison:
            return 0

    async def _build_wanted(self) -> dict[str, bytes]:
        """Return every key with its value, except for ``sealing``, which is repeated anyway."""
        wanted: dict[str, bytes] = {}
        for epoch in self._fleet.epochs.values():
            wanted[subjects.keyring_epoch(epoch.epoch)] = epoch.key
        for node in self._fleet.nodes.values():
            if node.enrolment is not None:
                wanted[subjects.keyring_node(node.node)] = node.enrolment
        document = await self._store.load_trust()
        if document is not None:
            wanted[subjects.KEYRING_TRUST] = document
        return wanted

    async def _write(self, key: str, body: bytes) -> None:
        stored = await self._bucket.last(key)
        if stored is None or stored.body != body:
            await self._put(key, body, stored)

    async def _put(self, key: str, body: bytes, stored: StoredMessage | None) -> None:
        try:
            await self._bucket.put(key, body, 0 if stored is None else stored.sequence)
        except WriteConflict:
            raise BrokerAway(f"another writer changed {key} of {self._bucket.name}") from None
