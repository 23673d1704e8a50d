"""The bounds of 5 minutes, hours, days and months in a time zone.

A bill's day is the customer's day: it has 23 or 25 hours when the clocks change, and begins at
00:15 where midnight is skipped. In every zone the periods follow each other without a hole and
without an overlap.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from services.billing.domain.units import UnixMinute, minute_of, minute_time
from shared.contracts.usage import Granularity

_QUARTER: Final = 15
"""Minutes. Offsets of all zones have been whole quarters of an hour since 1972."""


def find_zone(name: str) -> ZoneInfo:
    """Return the zone of a name. LookupError when the IANA database has no such zone."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # a folder of the database is an OSError
        raise LookupError(f"there is no time zone {name!r}") from None


def period_bounds(
    start: UnixMinute, end: UnixMinute, granularity: Granularity, zone: ZoneInfo, limit: int
) -> list[UnixMinute]:
    """Return the starts of the periods that [start, end) touches, then the end of the last one.

    At most ``limit`` periods. ``start`` is less than ``end``; the first period begins at ``start``
    or before."""
    if granularity == "5m":
        return _five_minute_bounds(start, end, limit)
    if granularity == "hour":
        return _hour_bounds(start, end, zone, limit)
    return _date_bounds(start, end, granularity, zone, limit)


def month_bounds(text: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return start and end (UTC) of a month that is written ``2026-05``."""
    year, month = text.split("-")
    first = date(int(year), int(month), 1)
    start = minute_time(_first_minute(first, zone))
    end = minute_time(_first_minute(_next_date(first, "month"), zone))
    return start, end


def _five_minute_bounds(start: UnixMinute, end: UnixMinute, limit: int) -> list[UnixMinute]:
    bounds = [UnixMinute(start - start % 5)]
    while len(bounds) <= limit and bounds[-1] < end:
        bounds.append(UnixMinute(bounds[-1] + 5))
    return bounds


def _hour_bounds(
    start: UnixMinute, end: UnixMinute, zone: ZoneInfo, limit: int
) -> list[UnixMinute]:
    """A local hour that is repeated is two hours. An hour that is cut short by a change of half an
    hour stays one."""
    at = UnixMinute(start - start % _QUARTER)
    while not _begins_hour(at, zone):
        at = UnixMinute(at - _QUARTER)
    bounds = [at]
    while len(bounds) <= limit and bounds[-1] < end:
        at = UnixMinute(at + _QUARTER)
        if _begins_hour(at, zone):
            bounds.append(at)
    return bounds


def _begins_hour(minute: UnixMinute, zone: ZoneInfo) -> bool:
    local = minute_time(minute).astimezone(zone)
    before = minute_time(UnixMinute(minute - _QUARTER)).astimezone(zone)
    return local.minute == 0 or (local.date(), local.hour) != (before.date(), before.hour)


def _date_bounds(
    start: UnixMinute, end: UnixMinute, granularity: Granularity, zone: ZoneInfo, limit: int
) -> list[UnixMinute]:
    day = minute_time(start).astimezone(zone).date()
    if granularity == "month":
        day = day.replace(day=1)
    bounds = [_first_minute(day, zone)]
    while len(bounds) <= limit and bounds[-1] < end:
        day = _next_date(day, granularity)
        begin = _first_minute(day, zone)
        # A day that a zone skipped at the date line has no minutes and is no period.
        if begin > bounds[-1]:
            bounds.append(begin)
    return bounds


def _next_date(day: date, granularity: Granularity) -> date:
    if granularity == "day":
        return day + timedelta(days=1)
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def _first_minute(day: date, zone: ZoneInfo) -> UnixMinute:
    """A midnight that is skipped (PEP 495, a gap at fold 0) is computed with the offset before the
    change, which gives the very moment of the change. Of a midnight that comes twice this is the
    first one."""
    return minute_of(datetime(day.year, day.month, day.day, tzinfo=zone))
