"""Usage by 5 minutes, hour, day and month of a time zone.

It is read window by window, so that a page costs what it shows: the first window is one period,
the next ones are larger for as long as the page does not fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from services.billing.domain.calendar import period_bounds
from services.billing.domain.units import (
    UnixHour,
    UnixMinute,
    hour_time,
    minute_from,
    minute_of,
    minute_time,
)
from services.billing.store.retention import RetentionLimits, load_limits
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import UsageRow
from shared.errors import Refused
from shared.storage.pool import Connection

_KEYS: Final = {"account": "account", "domain": "domain", "node": "node"}
_LAST_MINUTE: Final = UnixMinute(2**31 - 100_000)
_GROWTH: Final = 4
_MAX_PERIODS: Final = 2048
# Parameters: $1 and $2 are the minutes of the window, $3 to $5 account, domain and node, $6 the
# bounds of the periods. Only _PARTS has $7 and $8, the hours that are read as wholes, and $9, those
# of them that a bound cuts. The last one, if any, is the key to begin after.
_MINUTES: Final = """
select minute, account, domain, node, https_requests, https_bytes, http_requests, http_bytes
from usage_minutes where minute >= $1 and minute < $2 and {conditions}
"""
_PARTS: Final = f"""
{_MINUTES}
and (minute < $7 * 60 or minute >= $8 * 60 or minute / 60 = any($9::int[])
    or minute / 60 in (select hour from touched_hours))
union all
select hour * 60 as minute, account, domain, node, https_requests, https_bytes, http_requests,
    http_bytes
from usage_hours where hour >= $7 and hour < $8 and {{conditions}} and hour <> all($9::int[])
    and hour not in (select hour from touched_hours)
"""
_SUMS: Final = """
with parts as ({parts})
select width_bucket(minute, $6::int[]) as period, {key} as key,
    sum(https_requests)::bigint as https_requests, sum(https_bytes)::bigint as https_bytes,
    sum(http_requests)::bigint as http_requests, sum(http_bytes)::bigint as http_bytes
from parts group by 1, 2 order by 1, 2 limit {limit}
"""


class _PageMark(NamedTuple):
    """The start and the key of the last row that was seen."""

    start: UnixMinute
    key: str


class _PeriodWindow(NamedTuple):
    """Consecutive periods, of which the minutes [start, end) are read.

    ``bounds``: the start of each period and the end of the last; ``after``: only keys beyond it."""

    bounds: list[UnixMinute]
    start: UnixMinute
    end: UnixMinute
    after: str | None


class _UsageQuestion(NamedTuple):
    """The question, and how far back it can be answered."""

    connection: Connection
    question: QueryUsage
    zone: ZoneInfo
    limits: RetentionLimits


async def query_usage(
    connection: Connection, question: QueryUsage, zone: ZoneInfo
) -> list[UsageRow]:
    """Return one page in order of (start, key). ``after``: usage_mark() of the last row seen."""
    asked = _UsageQuestion(connection, question, zone, await load_limits(connection))
    start = _whole_minute(minute_from(question.start))
    end = _whole_minute(minute_from(question.end))
    mark = _parse_mark(question.after)
    rows: list[UsageRow] = []
    if mark is not None:
        # The rest of the period that the last page ended in comes first.
        next_minute = UnixMinute(mark.start + 1)
        bounds = period_bounds(mark.start, next_minute, question.granularity, zone, 1)
        window = _PeriodWindow(bounds, max(start, bounds[0]), min(bounds[1], end), mark.key)
        if window.start < window.end:
            rows = await _read_window(asked, window, question.limit)
        start = max(start, bounds[1])
    return rows + await _read_periods(asked, start, end, question.limit - len(rows))


async def _read_periods(
    asked: _UsageQuestion, start: UnixMinute, end: UnixMinute, limit: int
) -> list[UsageRow]:
    rows: list[UsageRow] = []
    periods = 1
    while start < end and len(rows) < limit:
        bounds = period_bounds(start, end, asked.question.granularity, asked.zone, periods)
        window = _PeriodWindow(bounds, start, min(bounds[-1], end), None)
        rows += await _read_window(asked, window, limit - len(rows))
        start = bounds[-1]
        periods = min(periods * _GROWTH, _MAX_PERIODS)
    return rows


async def _read_window(asked: _UsageQuestion, window: _PeriodWindow, limit: int) -> list[UsageRow]:
    """Read whole hours from usage_hours, unless they are marked or cut by a bound; the rest by the
    minute."""
    question = asked.question
    cut = sorted({bound // 60 for bound in window.bounds if bound % 60})
    hours = _whole_hours(question, window, cut)
    _refuse_forgotten(asked, window, hours, cut)
    account = None if question.unattributed else question.account
    parameters: list[Any] = [window.start, window.end, account, question.domain, question.node]
    parameters.append(window.bounds)
    parts = _MINUTES
    if hours:
        parts = _PARTS
        parameters += [hours.start, hours.stop, cut]
    key = _KEYS[question.by]
    conditions = _conditions(question)
    if window.after is not None:
        parameters.append(window.after)
        conditions += f" and {key} > ${len(parameters)}"
    sql = _SUMS.format(parts=parts.format(conditions=conditions), key=key, limit=int(limit))
    rows = []
    for row in await asked.connection.fetch(sql, *parameters):
        # width_bucket() counts periods from 1.
        usage = UsageRow(
            start=minute_time(window.bounds[row["period"] - 1]),
            end=minute_time(window.bounds[row["period"]]),
            key=row["key"],
            https_requests=row["https_requests"],
            https_bytes=row["https_bytes"],
            http_requests=row["http_requests"],
            http_bytes=row["http_bytes"],
        )
        rows.append(usage)
    return rows


def _whole_hours(question: QueryUsage, window: _PeriodWindow, cut: Sequence[int]) -> range:
    """Return the hours that are read as wholes. Empty: all of the window is read by the minute."""
    if question.granularity == "5m" or (question.granularity == "hour" and cut):
        return range(0)
    return range(-(-window.start // 60), window.end // 60)


def _refuse_forgotten(
    asked: _UsageQuestion, window: _PeriodWindow, hours: range, cut: Sequence[int]
) -> None:
    """Raise Refused when the window needs usage that is no longer kept.

    Usage without an owner is kept by the minute for ever."""
    by_minute = [hour for hour in cut if hour in hours]
    if not hours or window.start < hours[0] * 60:
        by_minute.append(window.start // 60)
    if hours and hours[-1] * 60 + 60 < window.end:
        by_minute.append(window.end // 60)
    limits = asked.limits
    if by_minute and min(by_minute) < limits.minutes_from and not asked.question.unattributed:
        raise _too_old(
            "minute (as are periods that are no whole hours of UTC)", limits.minutes_from
        )
    if hours and hours[0] < limits.hours_from:
        raise _too_old("hour", limits.hours_from)


def _too_old(unit: str, kept_from: UnixHour) -> Refused:
    text = f"Usage by the {unit} is kept from {hour_time(kept_from):%Y-%m-%d %H:%M} UTC on."
    return Refused([finding(Code.REQUEST_TOO_OLD, text, field="request")])


def _conditions(question: QueryUsage) -> str:
    """Return the SQL that selects rows. An account is found through its domains, so that the
    primary key finds its usage."""
    if question.unattributed:
        account = "$3::text is null and account = ''"
    else:
        domains = "select domain from domain_facts where account = $3"
        account = f"($3::text is null or (account = $3 and domain in ({domains})))"
    return f"{account} and ($4::text is null or domain = $4) and ($5::text is null or node = $5)"


def usage_mark(row: UsageRow) -> str:
    """Return the mark of a page's last row, after which the next page begins."""
    return f"{minute_of(row.start)}|{row.key}"


def _parse_mark(text: str | None) -> _PageMark | None:
    if text is None:
        return None
    start, _, key = text.partition("|")
    if not start.isdecimal() or len(start) > 10 or int(start) > _LAST_MINUTE or "\0" in key:
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return _PageMark(UnixMinute(int(start)), key)


def _whole_minute(minute: UnixMinute) -> UnixMinute:
    """Return the nearest minute that the column can hold."""
    return min(max(minute, UnixMinute(0)), _LAST_MINUTE)
