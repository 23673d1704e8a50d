"""The ledger read for bills: line by line in order of booking, and added up for the statement of a
month."""

# parameter
from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from services.billing.domain.rating import DEFAULT_CURRENCY
from services.billing.domain.statements import StatementMonth
from services.billing.store.accounts import hour_time
from shared.contracts.findings import Code, finding
from shared.contracts.ledger import (
    LedgerPage,
    LedgerRow,
    QueryLedger,
    ShowStatement,
    Statement,
    StatementLine,
    StatementTotals,
)
from shared.errors import Refused
from shared.money import plain
from shared.storage.pool import Connection

_DIGITS: Final = 2
"""Of a bill's line (rule E1); PostgreSQL's round() takes halves away from zero."""
_LINES: Final = """
select l.id, l.account, l.kind, l.hour, coalesce(l.requests, p.requests) as requests, l.price,
    coalesce(l.price_id, p.plan) as price_id, l.plan, l.plan_cost, l.amount, l.currency,
      l.reference, l.at as booked_at,
    finance.billed_at(l.hour, l.at, {zone}) as billed_at
from {ledger} l left join plans p on l.kind = 'plan' and p.account = l.account
and p.reference = l.reference
"""
_PAGE: Final = f"""
with page as materialized (
    select * from ledger l where ($2::text is null or l.account = $2)
      and l.at >= $3::timestamptz - interval '1 hour'
    and l.at < finance.month_end($4::timestamptz - interval '1 microsecond', $1) + interval '24
    hours'
    and (l.at >= $3 and l.at < $4 or l.hour >= finance.unix_hour($3)
    and l.hour < finance.unix_hour($4))
    and (l.at, l.id) > ($5, $6) and ($7::text[] is null or l.kind = any($7))
    order by l.at, l.id limit $8
),
lines as ({_LINES.format(zone="$1", ledger="page")})
select *, billed_at >= $3 and billed_at < $4 as inside from lines order by booked_at, id
"""
"""A line is dated by its hour until the month of that is settled, however short the period that is
asked for: it may be booked weeks after the period, and still be in no other. Limited before it is
dated: the planner cannot know that nearly every line of those times is inside, and would sort them
all for each page (measured: 10 s of 300,000 lines, not 20 ms).
"""
_MONTH: Final = f"""
with lines as ({_LINES.format(zone="$2", ledger="ledger")}
    where l.account = $1 and l.at < $4::timestamptz + interval '24 hours'),
sorted as (
    select *, finance.line_class(kind, hour, booked_at, $2) as class, billed_at >= $3 as inside
    from lines where billed_at < $4
)
"""
_TOTALS: Final = (
    _MONTH
    + """
select coalesce(sum(amount) filter (where not inside), 0) as opening, coalesce(sum(amount), 0) as
  closing,
    coalesce(sum(amount) filter (where inside and class = 'credit'), 0) as credits,
    coalesce(sum(amount) filter (where inside and class = 'charge'), 0) as charges,
    coalesce(sum(amount) filter (where inside and class = 'correction'), 0) as corrections,
    coalesce(sum(amount) filter (where inside and class = 'plan'), 0) as plans,
    coalesce(sum(requests) filter (where inside and class in ('charge', 'correction')), 0)::bigint
    as requests
from sorted
"""
)
_GROUPS: Final = (
    _MONTH
    + f""",
groups as (
    select width_bucket(floor(extract(epoch from billed_at) / 60)::int, $5::int[]) as period,
      class as kind,
        case when class = 'correction' then hour end as hour, case when hour is null
        then id end as single,
        min(reference) as reference, sum(requests)::bigint as requests, price, price_id, plan,
        sum(amount) as amount,
        round(sum(amount), {_DIGITS}) as rounded, count(*)::int as lines
    from sorted where inside group by period, class, 3, 4, price, price_id, plan
)
"""
)
_ROUNDED: Final = _GROUPS + "select coalesce(sum(rounded), 0) from groups where kind <> 'credit'"
_SHOWN: Final = (
    _GROUPS
    + """
select * from groups order by period, array_position(array['credit', 'plan', 'charge',
  'correction', 'unused'], kind),
    hour, single, plan nulls first, price_id, price limit $6 offset $7
"""
)


async def page_ledger(connection: Connection, question: QueryLedger) -> LedgerPage:
    """In order of (booked_at, id). The zone is a valid one. A page may have fewer rows than its
    limit, even none, and a ``next``: lines that were booked in the period and belong to another
    month."""
    at, number = _parse_mark(question.after)
    rows = await connection.fetch(
        _PAGE,
        question.zone,
        question.account,
        question.start,
        question.end,
        at,
        number,
        question.kinds or None,
        question.limit,
    )
    last = (
        f"{rows[-1]['booked_at'].isoformat()}|{rows[-1]['id']}"
        if len(rows) == question.limit
        else None
    )
    return LedgerPage(rows=[_row(dict(row)) for row in rows if row["inside"]], next=last)


async def load_statement(
    connection: Connection, question: ShowStatement, month: StatementMonth, now: datetime
) -> Statement:
    """Totals and one page of lines; run in one snapshot, or they may not add up."""
    period = question.account, question.zone, month.start, month.end
    totals = await connection.fetchrow(_TOTALS, *period)
    rounded = await connection.fetchval(_ROUNDED, *period, month.bounds)
    rows = await connection.fetch(_SHOWN, *period, month.bounds, question.limit, question.after)
    currency = await connection.fetchval(
        "select currency from accounts where account = $1", question.account
    )
    return Statement(
        account=question.account,
        currency=currency or DEFAULT_CURRENCY,
        month=question.month,
        zone=question.zone,
        start=month.start,
        end=month.end,
        final=month.settled(now),
        totals=_totals(totals, rounded),
        lines=[_line(dict(row), month.bounds) for row in rows],
        next=question.after + len(rows) if len(rows) == question.limit else None,
    )


def _row(row: dict[str, Any]) -> LedgerRow:
    hour = None if row["hour"] is None else hour_time(row["hour"])
    del row["inside"]
    return LedgerRow.model_validate(
        {
            **row,
            "hour": hour,
            "late": hour is not None and row["billed_at"] != hour,
            **{name: _plain(row[name]) for name in ("price", "plan_cost", "amount")},
        }
    )


def _line(row: dict[str, Any], bounds: list[int]) -> StatementLine:
    period = row.pop("period")
    del row["single"]
    return StatementLine.model_validate(
        {
            **row,
            "start": _minute_time(bounds[period - 1]),
            "end": _minute_time(bounds[period]),
            "hour": None if row["hour"] is None else hour_time(row["hour"]),
            **{name: _plain(row[name]) for name in ("price", "amount", "rounded")},
        }
    )


def _totals(row: Any, rounded: Decimal) -> StatementTotals:
    exact = row["charges"] + row["corrections"] + row["plans"]
    sums = {
        name: plain(row[name])
        for name in ("opening", "credits", "charges", "corrections", "plans", "closing")
    }
    return StatementTotals(
        **sums, requests=row["requests"], rounded=plain(rounded), rounding=plain(rounded - exact)
    )


def _minute_time(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, hour_time(0).tzinfo)


def _plain(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else plain(amount)


def _parse_mark(mark: str | None) -> tuple[datetime, int]:
    if mark is None:
        return hour_time(0), 0
    time, _, number = mark.partition("|")
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is not None and len(number) < 19:
            return at, int(number)
    except ValueError:
        pass
    raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
