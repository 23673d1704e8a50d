"""Where the 5 minutes, hours, days and months of a time zone begin, in minutes of Unix time. Pure.

A bill's day is the customer's: 23 or 25 hours long when the clocks change, and begun at 00:15 where
midnight is left out. Whatever the zone, the periods follow each other without a hole or an overlap.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from shared.contracts.usage import Granularity

_QUARTER: Final = 15
"""Minutes. Offsets of all zones have been whole quarters of an hour since 1972."""


def find_zone(name: str) -> ZoneInfo:
    """LookupError when the IANA database has no such zone."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # a folder of the database is an OSError
        raise LookupError(f"there is no time zone {name!r}") from None


def period_bounds(
    first: int, past: int, granularity: Granularity, zone: ZoneInfo, most: int
) -> list[int]:
    """The starts of the periods that [first, past) touches, at most ``most`` of them, then the end
    of the last one.

    The first start lies at or before ``first``; ``first`` < ``past``."""
    if granularity == "5m":
        starts = range(first - first % 5, past + 5, 5)[: most + 1]
        return (
            list(starts) if starts[-1] >= past or len(starts) > most else [*starts, starts[-1] + 5]
        )
    if granularity == "hour":
        return _hours(first, past, zone, most)
    return _dates(first, past, granularity, zone, most)


def month_bounds(text: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Start and end (UTC) of a month written ``2026-05``."""
    year, month = (int(part) for part in text.split("-"))
    first = date(year, month, 1)
    return _time(_midnight(first, zone)), _time(_midnight(_next(first, "month"), zone))


def _hours(first: int, past: int, zone: ZoneInfo, most: int) -> list[int]:
    """A local hour that is repeated is two; one that is cut by a change of half an hour stays
    one."""
    at = first - first % _QUARTER
    while not _begins_hour(at, zone):
        at -= _QUARTER
    found = [at]
    while len(found) <= most and found[-1] < past:
        at += _QUARTER
        if _begins_hour(at, zone):
            found.append(at)
    return found


def _begins_hour(minute: int, zone: ZoneInfo) -> bool:
    local, before = _time(minute).astimezone(zone), _time(minute - _QUARTER).astimezone(zone)
    return local.minute == 0 or (local.date(), local.hour) != (before.date(), before.hour)


def _dates(first: int, past: int, granularity: Granularity, zone: ZoneInfo, most: int) -> list[int]:
    day = _time(first).astimezone(zone).date()
    if granularity == "month":
        day = day.replace(day=1)
    found = [_midnight(day, zone)]
    while len(found) <= most and found[-1] < past:
        day = _next(day, granularity)
        start = _midnight(day, zone)
        if start > found[-1]:  # a day that a zone left out at the date line is none
            found.append(start)
    return found


def _next(day: date, granularity: Granularity) -> date:
    if granularity == "day":
        return day + timedelta(days=1)
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """The first minute of a local date. A midnight that is left out (PEP 495, a gap at fold 0) is
    counted with the offset before it, which is the very moment of the change; of one that comes
    twice it is the first."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) // 60


def _time(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(minutes=minute)
