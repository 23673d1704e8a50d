"""Messages to the fleet and from it. Everything that a node takes is Signed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import (
    Account,
    Contract,
    Epoch,
    Hash,
    Identifier,
    Labels,
    Name,
    NodeId,
    SealedKey,
    Signed,
    Utc,
    Whole,
)
from shared.contracts.domains import Origin, Settings

# The time at which a bucket's stream was made, as the server writes it.
Incarnation = Annotated[str, Field(max_length=64)]


class BundleKind(StrEnum):
    HTTP_ONLY = "http_only"
    HTTPS = "https"
    SUSPENDED = "suspended"
    REMOVED = "removed"


class BundlePair(Contract):
    """A certificate as a node needs it: the public chain, the sealed key, the validator's
    attestation."""

    pair_id: Identifier
    chain: Annotated[str, Field(max_length=200_000, repr=False)]
    sealed_key: SealedKey
    attestation: Signed


class Bundle(Contract):
    """The desired state of one domain at one revision: the payload that edge_sync signs byte for
    byte.

    Nodes order bundles by (revision, epoch)."""

    domain: Name
    account: Account
    revision: Whole
    epoch: Epoch
    kind: BundleKind
    settings: Settings
    origin: Origin | None
    pairs: Annotated[list[BundlePair], Field(max_length=2)]


class BundlePage(Contract):
    """A row of https.rpc.bundle.page.v1: what the bucket should hold. ``hash`` is the SHA-256 of
    the bundle's bytes."""

    domain: Name
    revision: Whole
    hash: Hash


class Checkpoint(Contract):
    """https.edge.checkpoint.v1, each second, Signed by edge_sync: what the whole bucket holds.

    ``incarnation``: when the bucket's stream was made. ``sequence``: its last one. ``root``: the
    digest over every domain's (revision, bundle hash), see shared/crypto/digest.py.
    ``flush_seconds``: how often a node sends usage."""

    incarnation: Incarnation
    sequence: Whole
    root: Hash
    domains: Whole
    epoch: Epoch
    flush_seconds: float
    time: Utc


class Proof(Contract):
    """What a real local handshake showed after a bundle was applied.

    ``served`` is the leaf's SHA-256, None when the handshake was refused (as it must be without
    HTTPS). ``fault`` says why a bundle was not applied."""

    domain: Name
    revision: Whole
    applied_at: Utc
    served: Hash | None
    fault: Annotated[str, Field(max_length=500)] | None = None


class LogPosition(Contract):
    log: Identifier
    read_to: Whole
    confirmed_to: Whole


class NodeStatus(Contract):
    """https.edge.status.v1.<node>: a node's state. Cumulative, so that a lost one costs nothing;
    ``proofs`` are those since the last status."""

    node: NodeId
    incarnation: Incarnation
    sequence: Whole
    root: Hash
    epochs: Annotated[list[Epoch], Field(max_length=1000)]
    stale: bool
    proofs: Annotated[list[Proof], Field(max_length=1000)]
    logs: Annotated[list[LogPosition], Field(max_length=5000)]
    nginx_restarts: Whole
    time: Utc


class Progress(Contract):
    """https.edge.progress.v1: the number of nodes that have proven a revision; not kept."""

    domain: Name
    revision: Whole
    nodes: int
    proven: int
    last_node: NodeId | None
    elapsed_ms: float


class Converged(Contract):
    """https.event.edge.converged.v1: every live node served ``revision`` in a real handshake.

    Times are milliseconds from the command's stream time to the node's proof, by edge_sync's
    receipt. ``others``: enrolled nodes that do not count at present (drained, or silent for over
    5 s); of many, the first by name."""

    domain: Name
    account: Account
    revision: Whole
    command_id: Identifier
    nodes: int
    p50_ms: float
    p99_ms: float
    slowest: NodeId
    slowest_ms: float
    others: list[NodeId]


class Lagging(Contract):
    """https.event.edge.lagging.v1: after 60 s, ``missing`` nodes have not proven the revision.

    ``faults`` are by node; of a large fleet, the first nodes by name."""

    domain: Name
    account: Account
    revision: Whole
    command_id: Identifier
    missing: list[NodeId]
    faults: dict[str, str]


class NodeEvent(Contract):
    """https.event.node.<enrolled|drained|returned|removed|labelled>.v1: a node's state changed."""

    node: NodeId
    change: Literal["enrolled", "drained", "returned", "removed", "labelled"]
    at: Utc


class SealingEpoch(Contract):
    """The bucket's ``sealing``, Signed by edge_sync every few seconds: the epoch that the
    validator seals to.

    One that is over a minute old does not count."""

    epoch: Epoch
    at: Utc


class NodeView(Contract):
    node: NodeId
    state: Literal["live", "silent", "drained", "removed"]
    labels: Labels
    enrolled_at: Utc
    last_seen: Utc | None
    sequence: int | None
    behind: int | None
    in_sync: bool
    epochs: list[int]
