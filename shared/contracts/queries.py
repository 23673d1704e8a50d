"""Questions and answers on core NATS. An answer is its model, or a Refusal; pages stay under 512
KB."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import (
    Account,
    Contract,
    Epoch,
    Hash,
    Identifier,
    Mark,
    Name,
    NodeId,
    SealedKey,
    Search,
    Signed,
    Utc,
    Whole,
    Zone,
)
from shared.contracts.commands import CertificateName
from shared.contracts.domains import (
    CertificateStatus,
    DomainState,
    DomainView,
    HistoryEntry,
    Outcome,
    ServiceType,
)
from shared.contracts.edge import BundlePage, NodeView
from shared.contracts.findings import Finding
from shared.contracts.usage import ChargeRow, Granularity, GroupBy, UsageRow

PageSize = Annotated[int, Field(ge=1, le=500)]


class ShowDomain(Contract):
    domain: Name
    account: Account | None = None


class ListDomains(Contract):
    """https.rpc.domain.list.v1: domains for which every given filter holds.

    - ``expires_within``: certificates that end within so many days, expired ones included (0:
      those alone).
    - ``served_by``: the leaf fingerprint of a certificate that serves the domain.
    - ``certificate``: the most serious state of the served certificate (expires_soon: within 30
      days).
    - ``covered_by``: DNS names of a certificate; lists domains that it could serve.
    - ``order`` ``expiry``: only domains with a certificate, the first to end first.

    ``after`` is the ``next`` of the page before, with the same filters."""

    account: Account | None = None
    state: DomainState | None = None
    service_type: ServiceType | None = None
    source: Literal["custom", "stored"] | None = None
    certificate: CertificateStatus | None = None
    expires_within: Annotated[int, Field(ge=0, le=36_500)] | None = None
    prefix: Annotated[Search, Field(max_length=253)] | None = None
    suffix: Annotated[Search, Field(max_length=253)] | None = None
    served_by: Hash | None = None
    covered_by: Annotated[list[Search], Field(min_length=1, max_length=1000)] | None = None
    order: Literal["name", "expiry"] = "name"
    after: Search = ""
    limit: PageSize = 100


class DomainList(Contract):
    domains: list[DomainView]
    next: str | None


class ShowHistory(Contract):
    """https.rpc.domain.history.v1: commands and their outcomes, newest first.

    ``before`` is the ``next`` of the page before. Without a ``domain``: the commands on the
    ``account``'s library, its roots and itself."""

    domain: Name | None = None
    account: Account | None = None
    before: Whole | None = None
    limit: PageSize = 100


class History(Contract):
    entries: list[HistoryEntry]
    next: int | None


class ShowSubmission(Contract):
    submission_id: Identifier
    account: Account | None = None


class SubmissionView(Contract):
    """How a submission ended. ``outcome`` is None while it is being judged. ``domain`` is None
    for a certificate that was stored in the library (``certificate``)."""

    submission_id: Identifier
    domain: Name | None
    certificate: CertificateName | None = None
    account: Account
    outcome: Outcome | None
    revision: int | None
    findings: list[Finding]


class GetBundle(Contract):
    domain: Name


class BundleAnswer(Contract):
    """``payload``: the exact bytes of the Bundle that edge_sync signs; None for an unknown
    domain."""

    payload: str | None


class PageBundles(Contract):
    after: Search = ""
    limit: PageSize = 500


class BundlesPage(Contract):
    rows: list[BundlePage]
    next: str | None


class PageSealed(Contract):
    """https.rpc.pair.sealed.v1 (operator): kept pairs that are sealed to an epoch below
    ``below``."""

    below: Epoch
    after: Search = ""
    limit: PageSize = 100


class SealedPair(Contract):
    """A sealed pair, kept by a ``domain``, or by the account's library under ``certificate``."""

    domain: Name | None
    certificate: CertificateName | None = None
    account: Account
    pair_id: Identifier
    leaf_fingerprint: Hash
    sealed_key: SealedKey


class SealedPage(Contract):
    pairs: list[SealedPair]
    next: str | None


class Nothing(Contract):
    """A question without arguments."""


class MaxRevision(Contract):
    revision: int


class DigestQuestion(Contract):
    """https.rpc.edge.digest.v1: the 1,024 bucket digests of the desired set, or the members of
    one bucket."""

    bucket: Annotated[int, Field(ge=0, lt=1024)] | None = None


class DigestAnswer(Contract):
    incarnation: str
    sequence: int
    digests: list[str]
    members: list[BundlePage] = []


class FleetView(Contract):
    """Every node with its state.

    ``epoch``: the newest that was started. ``sealing_epoch``: the one that new pairs are sealed
    to, as edge_sync signed it in ``sealing`` (a SealingEpoch)."""

    nodes: list[NodeView]
    epoch: int
    sealing_epoch: int
    sealing: Signed | None
    sequence: int
    domains: int


class ShowConvergence(Contract):
    domain: Name


class ConvergenceView(Contract):
    domain: Name
    revision: int | None
    converged_revision: int | None
    converged_ms: float | None
    proven: list[NodeId]
    missing: list[NodeId]


class QueryUsage(Contract):
    """https.rpc.usage.query.v1: usage from ``start`` (inclusive) to ``end`` (exclusive), a row
    for each ``granularity`` of ``zone``.

    ``unattributed``: usage that no account owns (yet), whatever ``account`` says. ``after`` is
    the ``next`` of the page before."""

    start: Utc
    end: Utc
    granularity: Granularity = "hour"
    zone: Zone = "UTC"
    unattributed: bool = False
    by: GroupBy = "account"
    account: Account | None = None
    domain: Name | None = None
    node: NodeId | None = None
    after: Mark | None = None
    limit: PageSize = 500


class UsagePage(Contract):
    rows: list[UsageRow]
    next: str | None


class QueryCharges(Contract):
    account: Account
    start: Utc
    end: Utc
    after: Mark | None = None
    limit: PageSize = 500


class ChargesPage(Contract):
    rows: list[ChargeRow]
    next: str | None


class ShowBalance(Contract):
    account: Account


class QueryLogs(Contract):
    """https.rpc.usage.logs.v1: how far each log of a node is counted."""

    node: NodeId | None = None
    after: Mark = ""
    limit: PageSize = 500


class LogView(Contract):
    """A node's log. ``bad_lines``: lines up to ``stored_to`` that the node could not read."""

    node: NodeId
    log: Identifier
    stored_to: int
    read_to: int
    final_length: int | None
    held: int
    bad_lines: int = 0
    last_seen: Utc


class LogsPage(Contract):
    logs: list[LogView]
    next: str | None


class ListDead(Contract):
    after: Whole = 0
    limit: PageSize = 100


class DeadLetter(Contract):
    """A dead letter. ``body`` is None where the message carried a key or was too large: only its
    headers and the reason were kept."""

    sequence: int
    stream: str
    subject: str
    reason: str
    headers: dict[str, str]
    body: str | None
    time: Utc


class DeadPage(Contract):
    letters: list[DeadLetter]
    next: int | None


class OneDead(Contract):
    sequence: Annotated[Whole, Field(ge=1)]


class DeadDone(Contract):
    sequence: int
    done: Literal["replayed", "dropped"]
