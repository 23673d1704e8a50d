"""Is every byte in, and does everything add up (rule E9)?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Amount, Contract, Identifier, Mark, NodeId, Utc


class QueryGaps(Contract):
    """https.rpc.usage.gaps.v1: logs that were written to from ``start`` to ``end`` (None:
    whenever).

    ``after``: the ``next`` of the page before."""

    node: NodeId | None = None
    start: Utc | None = None
    end: Utc | None = None
    after: Mark = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 500


class Gap(Contract):
    """Bytes of a log, from offset ``start`` to before ``end``, that are not in, or that nobody can
    say to be all.

    ``missing``: something behind them has been read or has come; ``short``: the log is closed at
    ``end`` and its rest never came; ``parked``: they came and cannot be counted for a fault of the
    platform, which tries again;
    ``unknown_node``: they came from a node that nobody enrolled, and wait. Without bytes (start
    equals end): ``silent``, an enrolled node whose open log has not spoken for 5 minutes;
    ``unfinished``, a node that was drained or removed and never closed its log; ``unheard``, a node
    that was enrolled more than 5 minutes ago and has no log.
    ``since``: when the log was last complete to where it was read; of a node without a log, its
    enrolment."""

    node: NodeId
    log: Identifier | None
    start: int
    end: int
    kind: Literal["missing", "short", "parked", "unknown_node", "silent", "unfinished", "unheard"]
    since: Utc
    last_seen: Utc


class GapsPage(Contract):
    """``parked_events``: single events and changes of owners that wait for a fault of the platform
    to be mended."""

    gaps: list[Gap]
    next: str | None
    parked_events: int = 0


class QueryAudit(Contract):
    """https.rpc.usage.audit.v1 (finance, operator): whole hours, at most 31 days a question. It
    ends with the hour that runs, whatever ``end`` says; a ``start`` after that is refused."""

    start: Utc
    end: Utc


class Difference(Contract):
    """``what`` differs at ``place``: recomputed and recorded, as decimal strings."""

    what: Literal["usage", "accrual", "charged", "amount", "identity", "ledger", "archive"]
    place: str
    recomputed: str
    recorded: str


class AuditReport(Contract):
    """``agrees``: nothing differs. ``requests`` and ``bytes`` (HTTPS) as recomputed from the
    archive; ``charged`` and ``amounts`` (by currency) as recomputed for the closed hours;
    ``unattributed``: requests that no account owned;
    ``uncharged``: requests of the period that no closing has charged yet; ``bad_lines``: lines that
    the nodes could not read, of the batches that came in the period: their requests are in no
    count; at most 100 ``differences`` of ``differing``.

    ``complete``: the whole period was compared: all of it is still in the archive (13 months) and
    in the usage by the hour. What is older is not compared."""

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
    differences: list[Difference]
