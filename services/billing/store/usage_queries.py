"""Usage by 5 minutes, hour, day and month of a time zone: read window by window, so that a page
costs what it shows."""

# parameter
from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from services.billing.domain.calendar import period_bounds
from services.billing.store.retention import RetentionLimits, load_limits
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import UsageRow
from shared.errors import Refused
from shared.storage.pool import Connection

_SUMS: Final = (
    "sum(https_requests)::bigint as https_requests, sum(https_bytes)::bigint as https_bytes,"
    " sum(http_requests)::bigint as http_requests, sum(http_bytes)::bigint as http_bytes"
)
_KEYS: Final = {"account": "account", "domain": "domain", "node": "node"}
_COLUMNS: Final = ("key", "https_requests", "https_bytes", "http_requests", "http_bytes")
_LAST_MINUTE: Final = 2**31 - 100_000
_GROWTH: Final = 4
_MOST_PERIODS: Final = 2048
_MINUTES: Final = """
select minute, account, domain, node, https_requests, https_bytes, http_requests, http_bytes
  from usage_minutes
where minute >= $1 and minute < $2 and {who}
"""
_PARTS: Final = (
    _MINUTES
    + """
and (minute < $7 * 60 or minute >= $8 * 60 or minute / 60 = any($9::int[])
    or minute / 60 in (select hour from touched_hours))
union all
select hour * 60 as minute, account, domain, node, https_requests, https_bytes, http_requests,
  http_bytes
from usage_hours where hour >= $7 and hour < $8 and {who} and hour <> all($9::int[])
and hour not in (select hour from touched_hours)
"""
)


class _PageMark(NamedTuple):
    """The start (in minutes) and the key of the last row that was seen."""

    start: int
    key: str


class _PeriodWindow(NamedTuple):
    """Consecutive periods: ``bounds`` has the start of each and the end of the last. [first, past):
    what is read of them; ``after``: only keys beyond it."""

    bounds: list[int]
    first: int
    past: int
    after: str | None


class _UsageQuestion(NamedTuple):
    """What is asked for, and how far back it can be answered."""

    connection: Connection
    question: QueryUsage
    limits: RetentionLimits

    def refuse_forgotten(self, window: _PeriodWindow, hours: range, cut: Sequence[int]) -> None:
        """``hours`` are read as wholes but for those in ``cut``, the rest of the window by the
        minute. What nobody owns is kept by the minute for ever."""
        by_minute = [hour for hour in cut if hour in hours]
        if not hours or window.first < hours[0] * 60:
            by_minute.append(window.first // 60)
        if hours and hours[-1] * 60 + 60 < window.past:
            by_minute.append(window.past // 60)
        if (
            by_minute
            and min(by_minute) < self.limits.minutes_from
            and not self.question.unattributed
        ):
            raise _too_old(
                "minute (as are periods that are no whole hours of UTC)", self.limits.minutes_from
            )
        if hours and hours[0] < self.limits.hours_from:
            raise _too_old("hour", self.limits.hours_from)


def _too_old(what: str, kept_from: int) -> Refused:
    text = f"Usage by the {what} is kept from {_time(kept_from * 60):%Y-%m-%d %H:%M} UTC on."
    return Refused([finding(Code.REQUEST_TOO_OLD, text, field="request")])


async def query_usage(
    connection: Connection, question: QueryUsage, zone: ZoneInfo
) -> list[UsageRow]:
    """One page in order of (start, key).

    The first window is one period; the next ones are larger for as long as the page does not
    fill."""
    reading = _UsageQuestion(connection, question, await load_limits(connection))
    first, past = _minute_up(question.start), _minute_up(question.end)
    mark = _parse_mark(question.after)
    rows: list[UsageRow] = []
    if mark is not None:
        bounds = period_bounds(mark.start, mark.start + 1, question.granularity, zone, 1)
        begin, first = max(first, bounds[0]), max(first, bounds[1])
        if begin < min(bounds[1], past):
            window = _PeriodWindow(bounds, begin, min(bounds[1], past), mark.key)
            rows = await _read_window(reading, window, question.limit)
    return rows + await _read_periods(reading, zone, (first, past), question.limit - len(rows))


async def _read_periods(
    reading: _UsageQuestion, zone: ZoneInfo, period: tuple[int, int], limit: int
) -> list[UsageRow]:
    rows: list[UsageRow] = []
    (first, past), count = period, 1
    while first < past and len(rows) < limit:
        bounds = period_bounds(first, past, reading.question.granularity, zone, count)
        window = _PeriodWindow(bounds, first, min(bounds[-1], past), None)
        rows += await _read_window(reading, window, limit - len(rows))
        first, count = bounds[-1], min(count * _GROWTH, _MOST_PERIODS)
    return rows


async def _read_window(
    reading: _UsageQuestion, window: _PeriodWindow, limit: int
) -> list[UsageRow]:
    """Whole hours that no mark names and no period cuts come from usage_hours, the rest by
    minute."""
    question, key = reading.question, _KEYS[reading.question.by]
    hours, cut = (
        (-(-window.first // 60), window.past // 60),
        sorted({b // 60 for b in window.bounds if b % 60}),
    )
    short = question.granularity == "5m" or (question.granularity == "hour" and bool(cut))
    by_minute = short or hours[0] >= hours[1]
    reading.refuse_forgotten(window, range(0) if by_minute else range(*hours), cut)
    arguments = [] if by_minute else [*hours, cut]
    beyond = "" if window.after is None else f" and {key} > ${10 - 3 * by_minute}"
    parts = (_MINUTES if by_minute else _PARTS).format(who=_who(question) + beyond)
    rows = await reading.connection.fetch(
        f"with parts as ({parts}) select width_bucket(minute, $6::int[]) as period, {key} as "
        f"key, {_SUMS} from parts"
        f" group by 1, 2 order by 1, 2 limit {int(limit)}",
        window.first,
        window.past,
        None if question.unattributed else question.account,
        question.domain,
        question.node,
        window.bounds,
        *arguments,
        *([] if window.after is None else [window.after]),
    )
    times = [_time(bound) for bound in window.bounds]
    return [
        UsageRow(
            start=times[row["period"] - 1],
            end=times[row["period"]],
            **{k: row[k] for k in _COLUMNS},
        )
        for row in rows
    ]


def _who(question: QueryUsage) -> str:
    """By account through its domains: their usage is found by the primary key."""
    account = (
        "$3::text is null and account = ''"
        if question.unattributed
        else "($3::text is null or (account = $3 and domain in (select domain from "
        "domain_facts where account = $3)))"
    )
    return f"{account} and ($4::text is null or domain = $4) and ($5::text is null or node = $5)"


def usage_mark(row: UsageRow) -> str:
    """What the next page begins after."""
    return f"{int(row.start.timestamp()) // 60}|{row.key}"


def _parse_mark(text: str | None) -> _PageMark | None:
    if text is None:
        return None
    start, _, key = text.partition("|")
    if not start.isdecimal() or len(start) > 10 or int(start) > _LAST_MINUTE or "\0" in key:
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return _PageMark(int(start), key)


def _minute_up(at: datetime) -> int:
    """The first whole minute from ``at`` on, within what the column holds."""
    return min(max(-int(-at.timestamp() // 60), 0), _LAST_MINUTE)


def _time(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(minutes=minute)
