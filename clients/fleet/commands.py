"""Builds the commands that change the fleet: pure, signed by the operator where edge_sync must
check who speaks.

A command may be sent again with the same id until the broker has stored it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from clients.fleet.fleet_file import FleetFile, FleetNode
from shared import catalogue
from shared.contracts.base import Contract, SealedKey, Signed
from shared.contracts.commands import (
    DrainNode,
    EnrolNode,
    EpochKey,
    LabelNode,
    RemoveNode,
    ResealPair,
    SealedEpochKey,
    StartEpoch,
    TrustDocument,
    TrustedKey,
)
from shared.contracts.queries import SealedPair
from shared.crypto.sealing import PublicKey, epoch_info, pair_info
from shared.crypto.signing import Purpose
from shared.errors import SettingsError
from shared.ids import new_id

KEYRINGS_BYTES: Final = 400_000
"""How much of a StartEpoch may be keyrings: JSON inside JSON stays well under the broker's 1
MiB."""


class Command(NamedTuple):
    """``about``: the node, domain or ``fleet`` (ce-subject). ``id``: its ce-id."""

    subject: str
    body: Contract
    about: str
    id: str


def enrol(fleet: FleetFile, node: str, at: datetime) -> Command:
    """The node with every kept epoch key sealed to it; sent again later, it replaces the node's
    keyring."""
    return _signed(
        fleet, catalogue.CMD_NODE_ENROL, Purpose.ENROL, enrolment(fleet, fleet.node(node), at), node
    )


def enrolment(fleet: FleetFile, node: FleetNode, at: datetime) -> EnrolNode:
    """The body of an enrolment: every kept epoch's private key, sealed to the node's own.
    CannotOpen when that is no HPKE public key."""
    key = PublicKey(node.public_key)
    keyring = [
        SealedEpochKey(
            epoch=epoch, box=key.seal(fleet.epochs[epoch].encode(), epoch_info(node.node, epoch))
        )
        for epoch in sorted(fleet.epochs)
    ]
    return EnrolNode(
        node=node.node,
        public_key=node.public_key,
        nkey=node.nkey,
        keyring=keyring,
        labels=node.labels,
        issued_at=at,
    )


def start_epoch(fleet: FleetFile, at: datetime) -> list[Command]:
    """Starts the fleet's newest epoch, to be sent in this order.

    The keyrings of the remaining nodes travel inside the StartEpoch as far as they fit a message;
    those of a larger fleet go before it, each as an enrolment of its own: a rotation costs at most
    one message a node."""
    inside: list[Signed] = []
    before: list[Command] = []
    size = 0
    for node in fleet.remaining():
        if node.state == "made":
            continue
        one = fleet.operator().sign(Purpose.ENROL, enrolment(fleet, node, at))
        size += len(one.encode())
        if size <= KEYRINGS_BYTES:
            inside.append(one)
        else:
            before.append(Command(catalogue.CMD_NODE_ENROL, one, node.node, new_id()))
    key = EpochKey(
        epoch=fleet.epoch, public_key=fleet.epoch_key(fleet.epoch).public().text, issued_at=at
    )
    signature = fleet.operator().sign(Purpose.EPOCH, key).signature
    start = StartEpoch(key=key, key_signature=signature, keyrings=inside, issued_at=at)
    return [*before, _signed(fleet, catalogue.CMD_EPOCH_START, Purpose.EPOCH_START, start, "fleet")]


def drain(fleet: FleetFile, node: str, at: datetime) -> Command:
    """It no longer counts for convergence."""
    body = DrainNode(node=fleet.node(node).node, drained=True, issued_at=at)
    return _signed(fleet, catalogue.CMD_NODE_DRAIN, Purpose.DRAIN, body, node)


def bring_back(fleet: FleetFile, node: str, at: datetime) -> Command:
    """The return of a drained node."""
    body = DrainNode(node=fleet.node(node).node, drained=False, issued_at=at)
    return _signed(fleet, catalogue.CMD_NODE_DRAIN, Purpose.DRAIN, body, node)


def remove(fleet: FleetFile, node: str, at: datetime) -> Command:
    """What it held stays known to it: start a new epoch and re-key its domains after it."""
    body = RemoveNode(node=fleet.node(node).node, issued_at=at)
    return _signed(fleet, catalogue.CMD_NODE_REMOVE, Purpose.REMOVE, body, node)


def label(fleet: FleetFile, node: str, labels: dict[str, str], at: datetime) -> Command:
    body = LabelNode(node=fleet.node(node).node, labels=labels, issued_at=at)
    return _signed(fleet, catalogue.CMD_NODE_LABEL, Purpose.LABEL, body, node)


def sign_trust(fleet: FleetFile, keys: Iterable[TrustedKey], at: datetime) -> Signed:
    """The next trust document, kept in the fleet; unchanged keys keep the document and its
    serial."""
    wanted = list(keys)
    if fleet.trust is None or fleet.trust_keys != wanted:
        fleet.trust_serial += 1
        fleet.trust_keys = wanted
        document = TrustDocument(serial=fleet.trust_serial, keys=wanted, issued_at=at)
        fleet.trust = fleet.operator().sign(Purpose.TRUST, document)
    return fleet.trust


def publish_trust(fleet: FleetFile) -> Command:
    """The trust document as it was signed. SettingsError when none was."""
    if fleet.trust is None:
        raise SettingsError(
            "the fleet file holds no trust document yet: 'python -m deploy.docker.secrets' "
            "beside it signs one"
        )
    return Command(catalogue.CMD_TRUST_PUBLISH, fleet.trust, "fleet", new_id())


def reseal(fleet: FleetFile, pair: SealedPair) -> Command:
    """The pair's key, opened with its old epoch and sealed to the newest. CannotOpen when the box
    is not for it."""
    info = pair_info(pair.account, pair.pair_id, pair.leaf_fingerprint)
    plain = fleet.epoch_key(pair.sealed_key.epoch).open(pair.sealed_key.box, info)
    box = fleet.epoch_key(fleet.epoch).public().seal(plain, info)
    body = ResealPair(
        domain=pair.domain,
        certificate=pair.certificate,
        account=pair.account,
        pair_id=pair.pair_id,
        old_epoch=pair.sealed_key.epoch,
        sealed_key=SealedKey(epoch=fleet.epoch, box=box),
    )
    return Command(catalogue.CMD_PAIR_RESEAL, body, pair.domain or pair.account, new_id())


def _signed(
    fleet: FleetFile, subject: str, purpose: Purpose, body: Contract, about: str
) -> Command:
    return Command(subject, fleet.operator().sign(purpose, body), about, new_id())
