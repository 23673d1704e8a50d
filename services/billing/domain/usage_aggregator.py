"""Adding up usage by domain, minute and node (rules E4, E5).

A cell that cannot be counted is diverted; the range of its batch is accepted all the same. This
code runs for every cell and every single event: plain loops, and no object for each of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

from services.billing.domain.ownership import NOBODY, OwnershipPeriod, owner_at
from services.billing.domain.units import UnixDay, UnixHour, UnixMinute
from services.billing.domain.wire_format import WireCell

FUTURE_MINUTES: Final = 5
PAST_MINUTES: Final = 35 * 24 * 60
MICROSECONDS_A_MINUTE: Final = 60_000_000
_DOMAIN: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_MAX_DOMAIN_LENGTH: Final = 253
MinuteRow = tuple[str, UnixMinute, str, str, int, int, int, int]
"""Domain, minute, node, account, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes. The first
three are its key."""
Owners = Mapping[str, Sequence[OwnershipPeriod]]
"""The periods of every valid domain; an invalid one has no entry."""
AccountHour = tuple[str, UnixHour]


class RequestRow(NamedTuple):
    """A single event as it is stored. ``source`` and ``id`` are its identity.

    ``at``: Unix time in microseconds; ``day``: the day of ``at``."""

    source: str
    id: str
    day: UnixDay
    at: int
    domain: str
    node: str
    bytes: int
    status: int

    @property
    def minute(self) -> UnixMinute:
        return UnixMinute(self.at // MICROSECONDS_A_MINUTE)


@dataclass
class UsageAggregator:
    """Sums by (domain, minute, node).

    Each value is [account, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes]."""

    rows: dict[tuple[str, UnixMinute, str], list[Any]] = field(default_factory=dict)

    def add_cells(
        self, node: str, cells: Iterable[WireCell], owners: Owners, now_minute: UnixMinute
    ) -> list[tuple[WireCell, str]]:
        """Add the cells that can be counted; return each other one with its reason."""
        diverted: list[tuple[WireCell, str]] = []
        oldest = now_minute - PAST_MINUTES
        newest = now_minute + FUTURE_MINUTES
        rows = self.rows
        for cell in cells:
            minute = cell.minute
            periods = owners.get(cell.domain)
            if periods is None or not oldest <= minute <= newest:
                diverted.append((cell, minute_fault(minute, now_minute) or "domain_invalid"))
                continue
            key = (cell.domain, minute, node)
            row = rows.get(key)
            if row is None:
                rows[key] = [
                    owner_at(periods, minute),
                    cell.https_requests,
                    cell.https_bytes,
                    cell.http_requests,
                    cell.http_bytes,
                ]
            else:
                row[1] += cell.https_requests
                row[2] += cell.https_bytes
                row[3] += cell.http_requests
                row[4] += cell.http_bytes
        return diverted

    def add_requests(self, events: Iterable[RequestRow], owners: Owners) -> None:
        """Add one HTTPS request for each event. All domains and minutes must be valid."""
        rows = self.rows
        for _, _, _, at, domain, node, size, _ in events:
            # Not UnixMinute(...): the call would cost as much as the addition.
            minute: UnixMinute = at // MICROSECONDS_A_MINUTE  # type: ignore[assignment]
            row = rows.get((domain, minute, node))
            if row is None:
                rows[domain, minute, node] = [owner_at(owners[domain], minute), 1, size, 0, 0]
            else:
                row[1] += 1
                row[2] += size

    def minute_rows(self) -> list[MinuteRow]:
        """Return the sums in order of their key."""
        return [(*key, *row) for key, row in sorted(self.rows.items())]

    def accrued_requests(self) -> dict[AccountHour, int]:
        """Return HTTPS requests by account and hour, without usage without an owner."""
        accrued: dict[AccountHour, int] = defaultdict(int)
        for (_, minute, _), row in self.rows.items():
            account = row[0]
            requests = row[1]
            if account != NOBODY and requests:
                hour: UnixHour = minute // 60  # type: ignore[assignment]
                accrued[account, hour] += requests
        return accrued


def usage_ends(now: datetime) -> datetime:
    """Return the end of the last hour that can have usage: it may be FUTURE_MINUTES ahead."""
    ahead = now + timedelta(minutes=FUTURE_MINUTES)
    return ahead.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


@lru_cache(100_000)
def valid_domain(domain: str) -> bool:
    """Return whether a domain is written as nodes write it.

    Lower-case labels; ``*`` only as the whole first label."""
    return len(domain) <= _MAX_DOMAIN_LENGTH and _DOMAIN.fullmatch(domain) is not None


def minute_fault(minute: UnixMinute, now_minute: UnixMinute) -> str | None:
    """Return why a minute cannot be counted, or None.

    Rule E4: at most 5 minutes ahead, at most 35 days back."""
    if minute > now_minute + FUTURE_MINUTES:
        return "minute_in_future"
    if minute < now_minute - PAST_MINUTES:
        return "minute_too_old"
    return None
