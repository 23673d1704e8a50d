"""Adding up the cells of accepted batches. A cell that cannot be counted is diverted, never its
range (rule E5).

Called for every cell that comes in: plain loops, no object per cell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from services.billing.domain.ownership import NOBODY, OwnershipPeriod, owner_at
from services.billing.domain.wire_format import WireCell

FUTURE_MINUTES: Final = 5
PAST_MINUTES: Final = 35 * 24 * 60
_DOMAIN: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LONGEST: Final = 253
MinuteRow = tuple[str, int, str, str, int, int, int, int]
"""Domain, minute, node, account, HTTPS requests, HTTPS bytes, HTTP requests, HTTP bytes; sorts by
its key."""
RequestRow = tuple[str, str, int, int, str, str, int, int]
"""Source, id, day, time in microseconds, domain, node, bytes, status (store/requests.py)."""
Owners = Mapping[str, Sequence[OwnershipPeriod]]
"""The periods of every valid domain; an invalid one has no entry."""


@dataclass
class UsageAggregator:
    """Sums by (domain, minute, node); a value is [account, HTTPS requests, HTTPS bytes, HTTP
    requests, HTTP bytes]."""

    rows: dict[tuple[str, int, str], list[str | int]] = field(default_factory=dict)

    def add(
        self, node: str, cells: Iterable[WireCell], owners: Owners, now_minute: int
    ) -> list[tuple[WireCell, str]]:
        """Adds what can be counted; the rest comes back, each cell with its reason."""
        diverted: list[tuple[WireCell, str]] = []
        oldest, newest = now_minute - PAST_MINUTES, now_minute + FUTURE_MINUTES
        rows = self.rows
        for cell in cells:
            minute = cell.minute
            owned = owners.get(cell.domain)
            if owned is None or not oldest <= minute <= newest:
                diverted.append((cell, minute_fault(minute, now_minute) or "domain_invalid"))
                continue
            key = (cell.domain, minute, node)
            row = rows.get(key)
            if row is None:
                account = owner_at(owned, minute)
                rows[key] = [
                    account,
                    cell.https_requests,
                    cell.https_bytes,
                    cell.http_requests,
                    cell.http_bytes,
                ]
            else:
                row[1] += cell.https_requests  # type: ignore[operator]
                row[2] += cell.https_bytes  # type: ignore[operator]
                row[3] += cell.http_requests  # type: ignore[operator]
                row[4] += cell.http_bytes  # type: ignore[operator]
        return diverted

    def add_requests(self, events: Iterable[RequestRow], owners: Owners) -> None:
        """One request each, all of valid domains and minutes."""
        rows = self.rows
        for _, _, _, at, domain, node, size, _ in events:
            minute = at // 60_000_000
            row = rows.get((domain, minute, node))
            if row is None:
                rows[domain, minute, node] = [owner_at(owners[domain], minute), 1, size, 0, 0]
            else:
                row[1] += 1  # type: ignore[operator]
                row[2] += size  # type: ignore[operator]

    def minutes(self) -> list[MinuteRow]:
        """In order of their key."""
        return [(*key, *row) for key, row in sorted(self.rows.items())]  # type: ignore[misc]

    def accrued(self) -> dict[tuple[str, int], int]:
        """HTTPS requests by (account, hour); what belongs to nobody is in no account."""
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for (_, minute, _), (account, requests, *_) in self.rows.items():
            if account != NOBODY and requests:
                counts[account, minute // 60] += requests  # type: ignore[index, operator]
        return counts


def usage_ends(now: datetime) -> datetime:
    """The end of the last hour that usage can be of: it may be FUTURE_MINUTES ahead."""
    ahead = now + timedelta(minutes=FUTURE_MINUTES)
    return ahead.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


@lru_cache(100_000)
def valid_domain(domain: str) -> bool:
    """As the nodes write it: lower-case labels, ``*`` only as the whole first one."""
    return len(domain) <= _LONGEST and _DOMAIN.fullmatch(domain) is not None


def minute_fault(minute: int, now_minute: int) -> str | None:
    """Rule E4: at most 5 minutes ahead, at most 35 days back."""
    if minute > now_minute + FUTURE_MINUTES:
        return "minute_in_future"
    return "minute_too_old" if minute < now_minute - PAST_MINUTES else None
