"""Which month a statement is of, and when it is settled. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from services.billing.domain.calendar import month_bounds, period_bounds

SETTLED_AFTER: Final = timedelta(hours=24)
"""After a month's end: as finance.billed_at() of the migrations has it. What is booked later is in
a later month."""


@dataclass(frozen=True)
class StatementMonth:
    """[start, end) in UTC; ``bounds``: the starts of its days or hours, in minutes of Unix time,
    then its end."""

    start: datetime
    end: datetime
    bounds: list[int]

    def settled(self, now: datetime) -> bool:
        return now >= self.end + SETTLED_AFTER


def statement_month(text: str, by: str, zone: ZoneInfo) -> StatementMonth:
    """``text`` like ``2026-05``; ``by``: day or hour."""
    start, end = month_bounds(text, zone)
    first, past = int(start.timestamp()) // 60, int(end.timestamp()) // 60
    return StatementMonth(
        start, end, period_bounds(first, past, "day" if by == "day" else "hour", zone, 32 * 24)
    )
