"""Minutes, hours and days of Unix time, each a type of its own: a wrong unit is a wrong bill.

All of them count from 1970-01-01T00:00Z in UTC, without leap seconds: minute 60 is the first
minute of hour 1. Tables keep them in integer columns of the same name. A period of them is
[start, end): it has its start and does not have its end. mypy refuses a plain number, or another
unit, where one of these is expected; arithmetic gives a plain number, so name its unit again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NewType

UnixMinute = NewType("UnixMinute", int)
UnixHour = NewType("UnixHour", int)
UnixDay = NewType("UnixDay", int)
CalendarMonth = NewType("CalendarMonth", int)
"""A calendar month in UTC: 12 * year + month - 1."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def minute_of(at: datetime) -> UnixMinute:
    """Return the minute that ``at`` lies in."""
    return UnixMinute(int(at.timestamp()) // 60)


def minute_from(at: datetime) -> UnixMinute:
    """Return the first minute that starts at ``at`` or later."""
    return UnixMinute(-int(-at.timestamp() // 60))


def hour_of(at: datetime) -> UnixHour:
    """Return the hour that ``at`` lies in."""
    return UnixHour(int(at.timestamp()) // 3600)


def hour_from(at: datetime) -> UnixHour:
    """Return the first hour that starts at ``at`` or later."""
    return UnixHour(-int(-at.timestamp() // 3600))


def day_of(at: datetime) -> UnixDay:
    """Return the day that ``at`` lies in."""
    return UnixDay(int(at.timestamp()) // 86_400)


def hour_of_minute(minute: UnixMinute) -> UnixHour:
    """Return the hour that a minute lies in."""
    return UnixHour(minute // 60)


def day_of_hour(hour: UnixHour) -> UnixDay:
    """Return the day that an hour lies in."""
    return UnixDay(hour // 24)


def first_minute(hour: UnixHour) -> UnixMinute:
    """Return the first minute of an hour."""
    return UnixMinute(hour * 60)


def minute_time(minute: UnixMinute) -> datetime:
    """Return the start of a minute."""
    return EPOCH + timedelta(minutes=minute)


def hour_time(hour: UnixHour) -> datetime:
    """Return the start of an hour."""
    return EPOCH + timedelta(hours=hour)


def month_of(hour: UnixHour) -> CalendarMonth:
    """Return the calendar month that an hour lies in."""
    at = hour_time(hour)
    return CalendarMonth(at.year * 12 + at.month - 1)


def month_start(hour: UnixHour) -> UnixHour:
    """Return the first hour of the calendar month that an hour lies in."""
    return hour_of(hour_time(hour).replace(day=1, hour=0))


def format_hour(hour: UnixHour) -> str:
    """Return an hour as ``2026-05-01T13Z``."""
    return f"{hour_time(hour):%Y-%m-%dT%HZ}"
