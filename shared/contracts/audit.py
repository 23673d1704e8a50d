"""Is every byte in, and does everything add up (rule E9)?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Amount, Contract, Identifier, Mark, NodeId, Utc


class QueryGaps(Contract):
    """https.rpc.usage.gaps.v1: logs that were written to from ``start`` to ``end`` (None: whenever).

    ``after``: the ``next`` of the page before."""

    node: NodeId | None = None
    start: Utc | None = None
    end: Utc | None = None
    after: Mark = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 500


class Gap(Contract):
    """Bytes of a log that are not in, from offset ``start`` to before ``end``.

    ``missing``: something behind them has been read or has come; ``short``: the log is closed at ``end`` and its rest
    never came; ``silent`` (start equals end): an enrolled node whose open log has not spoken for 5 minutes.
    ``since``: when the log was last complete to where it was read."""

    node: NodeId
    log: Identifier
    start: int
    end: int
    kind: Literal["missing", "short", "silent"]
    since: Utc
    last_seen: Utc


class GapsPage(Contract):
    gaps: list[Gap]
    next: str | None


class QueryAudit(Contract):
    """https.rpc.usage.audit.v1 (finance, operator): whole hours, at most 31 days a question."""

    start: Utc
    end: Utc


class Difference(Contract):
    """``what`` differs at ``place``: recomputed and recorded, as decimal strings."""

    what: Literal["usage", "accrual", "charged", "amount", "identity", "ledger", "archive"]
    place: str
    recomputed: str
    recorded: str


class AuditReport(Contract):
    """``agrees``: nothing differs. ``requests`` and ``bytes`` (HTTPS) as recomputed from the archive; ``charged`` and
    ``amounts`` (by currency) as recomputed for the closed hours; ``unattributed``: requests that no account owned;
    ``uncharged``: requests of the period that no closing has charged yet; at most 100 ``differences`` of ``differing``.

    ``complete``: every usage batch and event of the period is still in the archive (13 months)."""

    start: Utc
    end: Utc
    agrees: bool
    complete: bool
    batches: int
    single_events: int
    requests: int
    bytes: int
    unattributed: int
    diverted: int
    charged: int
    uncharged: int
    amounts: dict[str, Amount]
    differing: int
    differences: list[Difference]
