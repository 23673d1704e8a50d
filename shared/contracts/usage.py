"""Usage: byte ranges of the nodes' logs and single events come in; rows and charges go out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import (
    Account,
    Amount,
    Contract,
    Currency,
    Identifier,
    Name,
    NodeId,
    Utc,
    Whole,
)

Count = Whole


class UsageCell(Contract):
    """Counts of one domain in one minute (Unix time in minutes). Only ``https_requests`` are
    charged."""

    domain: Annotated[str, Field(max_length=253)]
    minute: int
    https_requests: Count = 0
    https_bytes: Count = 0
    http_requests: Count = 0
    http_bytes: Count = 0


class PreviousLog(Contract):
    """The log before this one, whose length is final."""

    log: Identifier
    length: Count


class UsageBatch(Contract):
    """https.usage.batch.v1.<node>: bytes ``start`` to ``end`` of ``log``, counted.

    It is accepted only at the stored end. ``read_to``: the highest byte read so far.
    ``bad_lines``: lines of the range that could not be read. ``final``: the log ends at ``end``."""

    node: NodeId
    log: Identifier
    start: Count
    end: Count
    read_to: Count
    previous: PreviousLog | None = None
    cells: Annotated[list[UsageCell], Field(max_length=50_000)]
    bad_lines: Count = 0
    final: bool = False


class Confirmation(Contract):
    """https.edge.confirmed.v1.<node>, Signed by billing: ``log`` is committed up to ``end``."""

    node: NodeId
    log: Identifier
    end: Count


class HttpsRequest(Contract):
    """https.usage.request.v1: one HTTPS request by any platform service; (source, id) identifies
    it."""

    id: Identifier
    source: Identifier
    time: Utc
    domain: Name
    bytes: Count
    status: Annotated[int, Field(ge=100, le=599)]
    node: NodeId


Granularity = Literal["5m", "hour", "day", "month"]
GroupBy = Literal["account", "domain", "node"]


class UsageRow(Contract):
    """HTTPS and HTTP requests and bytes of ``key`` from ``start`` to ``end``.

    The period is one ``granularity`` of the asked zone: a day of it may have 23 or 25 hours."""

    start: Utc
    end: Utc
    key: str
    https_requests: int
    https_bytes: int
    http_requests: int
    http_bytes: int


class ChargeRow(Contract):
    """A ledger line: ``requests`` of ``hour`` at ``price`` for 10,000.

    ``price_id`` names the price in the price book. With ``plan`` the requests were taken from
    the plan that was bought under that reference; then price and amount are 0."""

    account: Account
    hour: Utc
    kind: Literal["charge", "correction"]
    requests: int
    price: Amount
    amount: Amount
    currency: Currency
    price_id: str | None = None
    plan: str | None = None
