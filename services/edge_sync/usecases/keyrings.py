"""The operator's word: fleet commands in, the bucket edge_keyrings out, rebuilt from PostgreSQL
whenever it differs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from services.edge_sync.domain import fleet
from services.edge_sync.domain.fleet import Change, Epoch, Node
from services.edge_sync.store.bucket import Bucket, Moved
from services.edge_sync.store.database import Store
from services.edge_sync.usecases.trust import Trusted
from shared import catalogue
from shared import subjects as s
from shared.clock import Clock
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.commands import (
    DrainNode,
    EnrolNode,
    EpochKey,
    LabelNode,
    RemoveNode,
    StartEpoch,
    TrustDocument,
)
from shared.contracts.edge import SealingEpoch
from shared.crypto.signing import OPERATOR_KEY_ID, Purpose, Signer
from shared.errors import BrokerAway, Malformed, Poison
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.delivery import Delivery
from shared.messaging.direct_get import StoredMessage

log = structlog.get_logger()
SOURCE = "edge_sync"


class Keyrings:
    """``nodes`` and ``epochs``: the fleet in memory, equal to the database after each command.
    ``sealing_word``: the last that was said about the epoch to seal to."""

    def __init__(
        self,
        store: Store,
        bucket: Bucket,
        trusted: Trusted,
        signer: Signer,
        clock: Clock,
        removed: Callable[[str], None],
    ) -> None:
        self._store, self._bucket, self._trusted, self._signer = store, bucket, trusted, signer
        self._clock, self._removed = clock, removed
        self.nodes: dict[str, Node] = {}
        self.epochs: dict[int, Epoch] = {}
        self.sealing_word: Signed | None = None
        self._handlers: dict[str, Callable[[Delivery], Awaitable[None]]] = {
            catalogue.CMD_NODE_ENROL: self._enrol,
            catalogue.CMD_NODE_DRAIN: self._drain,
            catalogue.CMD_NODE_REMOVE: self._remove,
            catalogue.CMD_NODE_LABEL: self._label,
            catalogue.CMD_EPOCH_START: self._start,
            catalogue.CMD_TRUST_PUBLISH: self._publish_trust,
        }

    async def load(self) -> None:
        self.nodes.clear()
        self.nodes.update(await self._store.nodes())
        self.epochs = await self._store.epochs()
        document = await self._store.trust()
        if document is not None:
            self._trusted.publish(parse(Signed, document))

    async def handle(self, delivery: Delivery) -> None:
        """A command of FLEET: effect committed and in the bucket when it returns. Poison when it is
        not signed by the operator for what it asks."""
        handler = self._handlers.get(delivery.subject)
        if handler is None:
            raise Malformed(f"{delivery.subject} is no fleet command")
        await handler(delivery)

    async def reconcile(self) -> None:
        """Makes the bucket what the database says; keyrings of removed nodes are erased."""
        found: dict[str, StoredMessage] = {}
        async for batch in self._bucket.read(1):
            found |= {self._bucket.key_of(message): message for message in batch}
        for key, body in (await self._desired()).items():
            held = found.get(key)
            if held is None or held.body != body:
                await self._put(key, body, held)
        for node in self.nodes.values():
            left = found.get(s.keyring_node(node.node))
            if node.removed and left is not None:
                await self._bucket.erase(left.sequence)

    @property
    def newest(self) -> Epoch | None:
        return self.epochs[max(self.epochs)] if self.epochs else None

    @property
    def sealing(self) -> Epoch | None:
        """The epoch that pairs are sealed to."""
        return max(
            (e for e in self.epochs.values() if e.sealing is not None),
            key=lambda e: e.epoch,
            default=None,
        )

    async def seal_to(self, epoch: Epoch) -> None:
        """From now on the validator seals to ``epoch``."""
        await self._store.save_sealing(epoch.epoch, self._word(epoch).encode())
        self.epochs = await self._store.epochs()
        await self.say_sealing()
        log.info("epoch.sealing", epoch=epoch.epoch)

    async def say_sealing(self) -> None:
        """The word on the epoch to seal to, with the time: the validator takes no old one. Never a
        lower epoch than stands there, by a replica that was stopped or a database that was brought
        back from a copy."""
        epoch = self.sealing
        if epoch is None:
            return
        held = await self._bucket.last(s.KEYRING_SEALING)
        if held is not None and self._epoch_in(held.body) > epoch.epoch:
            self.epochs = await self._store.epochs()
            log.error("epoch.behind", epoch=epoch.epoch, do="edgetls fleet rotate, if this stays")
            return
        self.sealing_word = self._word(epoch)
        await self._put(s.KEYRING_SEALING, self.sealing_word.encode(), held)

    def _word(self, epoch: Epoch) -> Signed:
        # Plain time, without a test's offset: the validator compares it with its own.
        return self._signer.sign(Purpose.SEALING, SealingEpoch(epoch=epoch.epoch, at=Clock().now()))

    def _epoch_in(self, body: bytes) -> int:
        """0 in what edge_sync did not sign."""
        try:
            return self._trusted.own.open_bytes(Purpose.SEALING, body, SealingEpoch).epoch
        except Poison:
            return 0

    # The commands

    async def _enrol(self, delivery: Delivery) -> None:
        await self._enrol_one(delivery.body, delivery.id)

    async def _enrol_one(self, received: bytes, cause: str) -> None:
        order = self._trusted.operator.open_bytes(Purpose.ENROL, received, EnrolNode)
        at = self._clock.now()
        await self._change(order.node, cause, lambda held: fleet.enrol(held, order, received, at))
        await self._sync_node(order.node)

    async def _drain(self, delivery: Delivery) -> None:
        order = self._trusted.operator.open_bytes(Purpose.DRAIN, delivery.body, DrainNode)
        await self._change(order.node, delivery.id, lambda held: fleet.drain(held, order))

    async def _label(self, delivery: Delivery) -> None:
        order = self._trusted.operator.open_bytes(Purpose.LABEL, delivery.body, LabelNode)
        await self._change(order.node, delivery.id, lambda held: fleet.label(held, order))

    async def _remove(self, delivery: Delivery) -> None:
        order = self._trusted.operator.open_bytes(Purpose.REMOVE, delivery.body, RemoveNode)
        await self._change(order.node, delivery.id, lambda held: fleet.remove(held, order))
        await self._sync_node(order.node)

    async def _start(self, delivery: Delivery) -> None:
        """The epoch's public key and every keyring; ``sealing`` follows once the live nodes
        confirmed it."""
        order = self._trusted.operator.open_bytes(Purpose.EPOCH_START, delivery.body, StartEpoch)
        signed = Signed(
            key_id=OPERATOR_KEY_ID,
            payload=order.key.encode().decode(),
            signature=order.key_signature,
        )
        key = self._trusted.operator.open(Purpose.EPOCH, signed, EpochKey)
        for keyring in order.keyrings:
            self._trusted.operator.open(Purpose.ENROL, keyring, EnrolNode)
        fresh = fleet.start(self.epochs, key, signed.encode(), self._clock.now())
        if fresh is not None:
            async with self._store.transaction() as connection:
                await self._store.save_epoch(connection, fresh)
            self.epochs = await self._store.epochs()
        if key.epoch in self.epochs:
            await self._sync(s.keyring_epoch(key.epoch), self.epochs[key.epoch].key)
        for keyring in order.keyrings:
            await self._enrol_one(keyring.encode(), delivery.id)

    async def _publish_trust(self, delivery: Delivery) -> None:
        signed = parse(Signed, delivery.body)
        document = self._trusted.operator.open(Purpose.TRUST, signed, TrustDocument)
        if await self._store.save_trust(document.serial, delivery.body, document.issued_at):
            self._trusted.publish(signed)
        newest = await self._store.trust()
        if newest is not None:
            await self._sync(s.KEYRING_TRUST, newest)

    async def _change(
        self, node: str, cause: str, decide: Callable[[Node | None], Change | None]
    ) -> None:
        async with self._store.transaction() as connection:
            change = decide(await self._store.node(connection, node))
            if change is None:
                return
            await self._store.save_node(connection, change.node, self._events(change, cause))
        self.nodes[node] = change.node
        if change.word is not None:
            log.info("fleet.changed", node=node, change=change.word)
        if change.node.removed or change.word == "enrolled":
            self._removed(node)

    def _events(self, change: Change, cause: str) -> list[Outgoing]:
        at = self._clock.now()
        event = change.event(at)
        if event is None:
            return []
        subject, body = event
        identity = derived_id(subject, change.node.node, change.node.issued_at.isoformat())
        return [
            outgoing(
                subject,
                body,
                source=SOURCE,
                about=change.node.node,
                at=at,
                id=identity,
                cause=cause,
            )
        ]

    # The bucket

    async def _desired(self) -> dict[str, bytes]:
        desired = {s.keyring_epoch(epoch.epoch): epoch.key for epoch in self.epochs.values()}
        for node in self.nodes.values():
            if node.enrolment is not None:
                desired[s.keyring_node(node.node)] = node.enrolment
        document = await self._store.trust()
        return desired if document is None else desired | {s.KEYRING_TRUST: document}

    async def _sync_node(self, node: str) -> None:
        known = self.nodes.get(node)
        if known is not None:
            await self._sync(s.keyring_node(node), known.enrolment)

    async def _sync(self, key: str, body: bytes | None) -> None:
        """One key, put or (None) erased, where it differs."""
        held = await self._bucket.last(key)
        if body is None:
            if held is not None:
                await self._bucket.erase(held.sequence)
        elif held is None or held.body != body:
            await self._put(key, body, held)

    async def _put(self, key: str, body: bytes, held: StoredMessage | None) -> None:
        try:
            await self._bucket.put(key, body, 0 if held is None else held.sequence)
        except Moved:
            raise BrokerAway(f"somebody else wrote {key} of {self._bucket.name}") from None
