"""Completeness of usage, and the audit of what was charged (rule E9)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Amount, Contract, Identifier, Mark, NodeId, Utc


class QueryGaps(Contract):
    """https.rpc.usage.gaps.v1: gaps in the logs that were written to from ``start`` to ``end``.

    Without ``start`` and ``end``: at any time. ``after`` is the ``next`` of the page before."""

    node: NodeId | None = None
    start: Utc | None = None
    end: Utc | None = None
    after: Mark = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 500


class Gap(Contract):
    """Bytes of a node's log, from offset ``start`` to before ``end``, that are not counted.

    - ``missing``: bytes behind them were read or have arrived.
    - ``short``: the log is closed at ``end``, and its rest never arrived.
    - ``parked``: they arrived and cannot be counted because of a fault of the platform, which tries
      again.
    - ``unknown_node``: they came from a node that is not enrolled, and wait for its enrolment.

    Without bytes (``start`` equals ``end``):

    - ``silent``: an enrolled node sent nothing about its open log for 5 minutes.
    - ``unfinished``: a node was drained or removed and did not close its log.
    - ``unheard``: a node was enrolled more than 5 minutes ago and has no log.

    ``since`` is the time at which the log was last complete up to what had been read; for a node
    without a log, the time of its enrolment."""

    node: NodeId
    log: Identifier | None
    start: int
    end: int
    kind: Literal["missing", "short", "parked", "unknown_node", "silent", "unfinished", "unheard"]
    since: Utc
    last_seen: Utc


class GapsPage(Contract):
    """A page of gaps.

    ``parked_events`` counts single events and ownership events that wait until a fault of the
    platform is mended."""

    gaps: list[Gap]
    next: str | None
    parked_events: int = 0


class QueryAudit(Contract):
    """https.rpc.usage.audit.v1 (finance, operator): audit whole hours, at most 31 days a question.

    The audit ends before the current hour, whatever ``end`` says. A later ``start`` is refused."""

    start: Utc
    end: Utc


class AuditDifference(Contract):
    """A difference of ``what`` at ``place``: the recomputed and the recorded value, as decimal
    strings."""

    what: Literal["usage", "accrual", "charged", "amount", "identity", "ledger", "archive"]
    place: str
    recomputed: str
    recorded: str


class AuditReport(Contract):
    """The result of an audit; ``agrees`` is true when nothing differs.

    ``requests`` and ``bytes`` (HTTPS) are recomputed from the archive; ``charged`` and ``amounts``
    (by currency) are recomputed for the closed hours. ``unattributed`` counts requests that no
    account owned. ``uncharged`` counts requests of the period that are not charged yet.
    ``bad_lines`` counts log lines that the nodes could not read, in the batches that arrived in the
    period: their requests are in no count. ``differences`` holds at most 100 of the ``differing``
    ones.

    ``complete``: the whole period was compared, because all of it is still in the archive (13
    months) and in the usage by the hour. Older hours are not compared."""

    start: Utc
    end: Utc
    agrees: bool
    complete: bool
    batches: int
    single_events: int
    bad_lines: int
    requests: int
    bytes: int
    unattributed: int
    diverted: int
    charged: int
    uncharged: int
    amounts: dict[str, Amount]
    differing: int
    differences: list[AuditDifference]
