"""The month of a statement: its bounds, and when it is settled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from services.billing.domain.calendar import month_bounds, period_bounds
from services.billing.domain.units import UnixMinute, minute_of
from shared.contracts.usage import Granularity

SETTLED_AFTER: Final = timedelta(hours=24)
"""After the end of a month, as in finance.billed_at() of the migrations. A line that is booked
later belongs to a later month."""
_MAX_HOURS: Final = 32 * 24


@dataclass(frozen=True)
class StatementMonth:
    """A month [start, end) in UTC. ``bounds``: the starts of its days or hours, then its end."""

    start: datetime
    end: datetime
    bounds: list[UnixMinute]

    def is_settled(self, now: datetime) -> bool:
        """Return whether no line can join the month any more."""
        return now >= self.end + SETTLED_AFTER


def statement_month(text: str, by: str, zone: ZoneInfo) -> StatementMonth:
    """Return a month of a time zone. ``text``: like ``2026-05``; ``by``: day or hour."""
    start, end = month_bounds(text, zone)
    granularity: Granularity = "day" if by == "day" else "hour"
    bounds = period_bounds(minute_of(start), minute_of(end), granularity, zone, _MAX_HOURS)
    return StatementMonth(start, end, bounds)
