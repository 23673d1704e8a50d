"""Build the commands that change the fleet, signed with the operator's key. Pure.

Only resealed pairs are not signed: config takes them from the operator's login. A command may be
sent again with the same id until the broker has stored it.
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

MAX_KEYRINGS_BYTES: Final = 400_000
"""Limit of the keyrings inside a StartEpoch. They are JSON inside JSON, and the message stays well
under the broker's 1 MiB."""


class FleetCommand(NamedTuple):
    """A command to publish. ``about``: the node, the domain or ``fleet`` (ce-subject). ``id``: its
    ce-id."""

    subject: str
    body: Contract
    about: str
    id: str


def enrol_node(fleet: FleetFile, node: str, at: datetime) -> FleetCommand:
    """Enrol a node, or renew its keyring when it is enrolled already."""
    body = build_enrolment(fleet, fleet.find_node(node), at)
    return _sign_command(fleet, catalogue.CMD_NODE_ENROL, Purpose.ENROL, body, node)


def build_enrolment(fleet: FleetFile, node: FleetNode, at: datetime) -> EnrolNode:
    """Return the body of an enrolment: the private key of every kept epoch, sealed to the node.

    CannotOpen when the node's key is no HPKE public key."""
    key = PublicKey(node.public_key)
    keyring = []
    for epoch in sorted(fleet.epochs):
        box = key.seal(fleet.epochs[epoch].encode(), epoch_info(node.node, epoch))
        keyring.append(SealedEpochKey(epoch=epoch, box=box))
    return EnrolNode(
        node=node.node,
        public_key=node.public_key,
        nkey=node.nkey,
        keyring=keyring,
        labels=node.labels,
        issued_at=at,
    )


def start_epoch(fleet: FleetFile, at: datetime) -> list[FleetCommand]:
    """Start the fleet's newest epoch. The commands must be sent in this order."""
    # Every remaining node needs its renewed keyring. Keyrings travel inside the StartEpoch as far
    # as a message holds them. Those that do not fit are enrolments of their own and go first, so
    # that all nodes have the key before the epoch starts. A rotation costs at most one message a
    # node. A node that was only made has no enrolment to renew: its first one has every epoch.
    inside: list[Signed] = []
    before: list[FleetCommand] = []
    size = 0
    for node in fleet.remaining_nodes():
        if node.state == "made":
            continue
        enrolment = fleet.operator_signer().sign(Purpose.ENROL, build_enrolment(fleet, node, at))
        size += len(enrolment.encode())
        if size <= MAX_KEYRINGS_BYTES:
            inside.append(enrolment)
        else:
            command = FleetCommand(catalogue.CMD_NODE_ENROL, enrolment, node.node, new_id())
            before.append(command)
    newest = fleet.newest_epoch
    key = EpochKey(epoch=newest, public_key=fleet.epoch_key(newest).public().text, issued_at=at)
    signature = fleet.operator_signer().sign(Purpose.EPOCH, key).signature
    body = StartEpoch(key=key, key_signature=signature, keyrings=inside, issued_at=at)
    start = _sign_command(fleet, catalogue.CMD_EPOCH_START, Purpose.EPOCH_START, body, "fleet")
    return [*before, start]


def drain_node(fleet: FleetFile, node: str, at: datetime) -> FleetCommand:
    """Drain a node: no revision waits for it any more."""
    body = DrainNode(node=fleet.find_node(node).node, drained=True, issued_at=at)
    return _sign_command(fleet, catalogue.CMD_NODE_DRAIN, Purpose.DRAIN, body, node)


def return_node(fleet: FleetFile, node: str, at: datetime) -> FleetCommand:
    """Bring a drained node back."""
    body = DrainNode(node=fleet.find_node(node).node, drained=False, issued_at=at)
    return _sign_command(fleet, catalogue.CMD_NODE_DRAIN, Purpose.DRAIN, body, node)


def remove_node(fleet: FleetFile, node: str, at: datetime) -> FleetCommand:
    """Remove a node. It still knows the keys that it held: start a new epoch after it."""
    body = RemoveNode(node=fleet.find_node(node).node, issued_at=at)
    return _sign_command(fleet, catalogue.CMD_NODE_REMOVE, Purpose.REMOVE, body, node)


def label_node(fleet: FleetFile, node: str, labels: dict[str, str], at: datetime) -> FleetCommand:
    """Replace a node's labels."""
    body = LabelNode(node=fleet.find_node(node).node, labels=labels, issued_at=at)
    return _sign_command(fleet, catalogue.CMD_NODE_LABEL, Purpose.LABEL, body, node)


def sign_trust(fleet: FleetFile, keys: Iterable[TrustedKey], at: datetime) -> Signed:
    """Sign the next trust document and keep it in the fleet file. Unchanged keys keep the document
    and its serial."""
    # Nodes take a document of a higher serial only, so each change of a key raises it.
    wanted = list(keys)
    if fleet.trust is None or fleet.trust_keys != wanted:
        fleet.trust_serial += 1
        fleet.trust_keys = wanted
        document = TrustDocument(serial=fleet.trust_serial, keys=wanted, issued_at=at)
        fleet.trust = fleet.operator_signer().sign(Purpose.TRUST, document)
    return fleet.trust


def publish_trust(fleet: FleetFile) -> FleetCommand:
    """Publish the trust document as it was signed. SettingsError when the fleet file has none."""
    if fleet.trust is None:
        raise SettingsError(
            "the fleet file holds no trust document yet: 'python -m deploy.docker.secrets' "
            "beside it signs one"
        )
    return FleetCommand(catalogue.CMD_TRUST_PUBLISH, fleet.trust, "fleet", new_id())


def reseal_pair(fleet: FleetFile, pair: SealedPair) -> FleetCommand:
    """Open a pair's key with its old epoch and seal it to the newest.

    CannotOpen when the box was not sealed for this pair and epoch."""
    # The info is bound into the box: it opens only for the pair that the validator sealed it for.
    info = pair_info(pair.account, pair.pair_id, pair.leaf_fingerprint)
    plain = fleet.epoch_key(pair.sealed_key.epoch).open(pair.sealed_key.box, info)
    newest = fleet.newest_epoch
    body = ResealPair(
        domain=pair.domain,
        certificate=pair.certificate,
        account=pair.account,
        pair_id=pair.pair_id,
        old_epoch=pair.sealed_key.epoch,
        sealed_key=SealedKey(epoch=newest, box=fleet.epoch_key(newest).public().seal(plain, info)),
    )
    return FleetCommand(catalogue.CMD_PAIR_RESEAL, body, pair.domain or pair.account, new_id())


def _sign_command(
    fleet: FleetFile, subject: str, purpose: Purpose, body: Contract, about: str
) -> FleetCommand:
    return FleetCommand(subject, fleet.operator_signer().sign(purpose, body), about, new_id())
