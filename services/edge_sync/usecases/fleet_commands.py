"""Handle the operator's commands: enrol, drain, remove or label a node, start an epoch, publish a
trust document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from services.edge_sync.domain import fleet as fleet_rules
from services.edge_sync.domain.fleet import FleetState, NodeRecord, NodeUpdate
from services.edge_sync.store.fleet import FleetStore
from services.edge_sync.usecases.keyrings import KeyringWriter
from services.edge_sync.usecases.trust import CurrentTrust
from shared import catalogue
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
from shared.crypto.signing import OPERATOR_KEY_ID, Purpose
from shared.errors import Malformed
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.delivery import Delivery

log = structlog.get_logger()
SOURCE = "edge_sync"
Decide = Callable[[NodeRecord | None], NodeUpdate | None]


class FleetCommands:
    """Checks each command's signature, commits its effect with its event, and writes the bucket.

    ``on_rejoin_or_leave``: called with a node's name when it was enrolled or removed."""

    def __init__(
        self,
        fleet: FleetState,
        store: FleetStore,
        keyrings: KeyringWriter,
        trust: CurrentTrust,
        clock: Clock,
        on_rejoin_or_leave: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._keyrings = keyrings
        self._trust = trust
        self._clock = clock
        self._on_rejoin_or_leave = on_rejoin_or_leave
        self._handlers: dict[str, Callable[[Delivery], Awaitable[None]]] = {
            catalogue.CMD_NODE_ENROL: self._enrol,
            catalogue.CMD_NODE_DRAIN: self._drain,
            catalogue.CMD_NODE_REMOVE: self._remove,
            catalogue.CMD_NODE_LABEL: self._label,
            catalogue.CMD_EPOCH_START: self._start_epoch,
            catalogue.CMD_TRUST_PUBLISH: self._publish_trust,
        }

    async def load_fleet(self) -> None:
        """Read the fleet and the trust document from the database into memory."""
        nodes = await self._store.load_nodes()
        self._fleet.nodes.clear()
        self._fleet.nodes.update(nodes)
        self._fleet.epochs = await self._store.load_epochs()
        document = await self._store.load_trust()
        if document is not None:
            self._trust.use_published(parse(Signed, document))

    async def handle(self, delivery: Delivery) -> None:
        """Handle one command; its effect is committed and in the bucket when this returns.

        Poison when the operator did not sign it for this purpose."""
        handler = self._handlers.get(delivery.subject)
        if handler is None:
            raise Malformed(f"{delivery.subject} is no fleet command")
        await handler(delivery)

    async def _enrol(self, delivery: Delivery) -> None:
        await self._enrol_node(delivery.body, delivery.id)

    async def _enrol_node(self, signed: bytes, cause: str) -> None:
        command = self._trust.operator.open_bytes(Purpose.ENROL, signed, EnrolNode)
        at = self._clock.now()
        await self._update_node(
            command.node,
            cause,
            lambda known: fleet_rules.enrol_node(known, command, signed, at),
        )
        await self._keyrings.write_node(command.node)

    async def _drain(self, delivery: Delivery) -> None:
        command = self._trust.operator.open_bytes(Purpose.DRAIN, delivery.body, DrainNode)
        await self._update_node(
            command.node, delivery.id, lambda known: fleet_rules.drain_node(known, command)
        )

    async def _label(self, delivery: Delivery) -> None:
        command = self._trust.operator.open_bytes(Purpose.LABEL, delivery.body, LabelNode)
        await self._update_node(
            command.node, delivery.id, lambda known: fleet_rules.label_node(known, command)
        )

    async def _remove(self, delivery: Delivery) -> None:
        command = self._trust.operator.open_bytes(Purpose.REMOVE, delivery.body, RemoveNode)
        await self._update_node(
            command.node, delivery.id, lambda known: fleet_rules.remove_node(known, command)
        )
        await self._keyrings.write_node(command.node)

    async def _start_epoch(self, delivery: Delivery) -> None:
        """Store the epoch's public key, then every node's renewed keyring. Sealing to the epoch
        starts later, when the live nodes have confirmed it."""
        operator = self._trust.operator
        command = operator.open_bytes(Purpose.EPOCH_START, delivery.body, StartEpoch)
        signed = Signed(
            key_id=OPERATOR_KEY_ID,
            payload=command.key.encode().decode(),
            signature=command.key_signature,
        )
        key = operator.open(Purpose.EPOCH, signed, EpochKey)
        # All signatures are checked first: a command has its whole effect or none.
        for keyring in command.keyrings:
            operator.open(Purpose.ENROL, keyring, EnrolNode)
        started = fleet_rules.start_epoch(
            self._fleet.epochs, key, signed.encode(), self._clock.now()
        )
        if started is not None:
            await self._store.save_epoch(started)
            self._fleet.epochs = await self._store.load_epochs()
        known = self._fleet.epochs.get(key.epoch)
        if known is not None:
            await self._keyrings.write_epoch(known)
        for keyring in command.keyrings:
            await self._enrol_node(keyring.encode(), delivery.id)

    async def _publish_trust(self, delivery: Delivery) -> None:
        signed = parse(Signed, delivery.body)
        document = self._trust.operator.open(Purpose.TRUST, signed, TrustDocument)
        if await self._store.save_trust(document.serial, delivery.body, document.issued_at):
            self._trust.use_published(signed)
        await self._keyrings.write_trust()

    async def _update_node(self, node: str, cause: str, decide: Decide) -> None:
        """Decide on the locked row of a node and commit the effect with its event."""
        async with self._store.transaction() as connection:
            update = decide(await self._store.lock_node(connection, node))
            if update is None:
                return
            await self._store.save_node(connection, update.node, self._build_events(update, cause))
        self._fleet.nodes[node] = update.node
        if update.change is not None:
            log.info("fleet.changed", node=node, change=update.change)
        if update.change in ("enrolled", "removed"):
            self._on_rejoin_or_leave(node)

    def _build_events(self, update: NodeUpdate, cause: str) -> list[Outgoing]:
        at = self._clock.now()
        event = update.build_event(at)
        if event is None:
            return []
        subject, body = event
        node = update.node.node
        # Derived from node and command, so that a command that is handled twice has one event.
        event_id = derived_id(subject, node, update.node.issued_at.isoformat())
        message = outgoing(
            subject, body, source=SOURCE, about=node, at=at, id=event_id, cause=cause
        )
        return [message]
