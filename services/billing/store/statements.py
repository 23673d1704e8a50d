"""The ledger read for bills: line by line in order of booking, and added up for a month."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from services.billing.domain.rating import DEFAULT_CURRENCY
from services.billing.domain.statements import StatementMonth
from services.billing.domain.units import EPOCH, UnixMinute, hour_time, minute_time
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
"""Decimal digits of a bill's line (rule E1). PostgreSQL's round() rounds halves away from zero."""
_LINES: Final = """
select l.id, l.account, l.kind, l.hour, coalesce(l.requests, p.requests) as requests, l.price,
    coalesce(l.price_id, p.plan) as price_id, l.plan, l.plan_cost, l.amount, l.currency,
    l.reference, l.at as booked_at,
    finance.billed_at(l.hour, l.at, {zone}) as billed_at
from {ledger} l
left join plans p on l.kind = 'plan' and p.account = l.account and p.reference = l.reference
"""
_PAGE: Final = f"""
with page as materialized (
    select * from ledger l
    where ($2::text is null or l.account = $2)
        and l.at >= $3::timestamptz - interval '1 hour'
        and l.at < finance.month_end($4::timestamptz - interval '1 microsecond', $1)
            + interval '24 hours'
        and (l.at >= $3 and l.at < $4
            or l.hour >= finance.unix_hour($3) and l.hour < finance.unix_hour($4))
        and (l.at, l.id) > ($5, $6) and ($7::text[] is null or l.kind = any($7))
    order by l.at, l.id limit $8
),
lines as ({_LINES.format(zone="$1", ledger="page")})
select *, billed_at >= $3 and billed_at < $4 as inside from lines order by booked_at, id
"""
"""A line is dated by its hour until the month of that hour is settled. So it may be booked weeks
after the period of the question, however short that is, and still be in no other period. The limit
comes before the dates: the planner cannot know that nearly every line of those times is inside, and
would sort them all for each page (measured: 10 s of 300,000 lines, not 20 ms)."""
_MONTH: Final = f"""
with lines as ({_LINES.format(zone="$2", ledger="ledger")}
    where l.account = $1 and l.at < $4::timestamptz + interval '24 hours'),
sorted as (
    select *, finance.line_class(kind, hour, booked_at, $2) as class, billed_at >= $3 as inside
    from lines where billed_at < $4
)
"""
_TOTALS: Final = f"""
{_MONTH}
select coalesce(sum(amount) filter (where not inside), 0) as opening,
    coalesce(sum(amount), 0) as closing,
    coalesce(sum(amount) filter (where inside and class = 'credit'), 0) as credits,
    coalesce(sum(amount) filter (where inside and class = 'charge'), 0) as charges,
    coalesce(sum(amount) filter (where inside and class = 'correction'), 0) as corrections,
    coalesce(sum(amount) filter (where inside and class = 'plan'), 0) as plans,
    coalesce(sum(requests) filter (where inside and class in ('charge', 'correction')), 0)::bigint
    as requests
from sorted
"""
_GROUPS: Final = f"""
{_MONTH},
groups as (
    select width_bucket(floor(extract(epoch from billed_at) / 60)::int, $5::int[]) as period,
        class as kind, case when class = 'correction' then hour end as hour,
        case when hour is null then id end as single,
        min(reference) as reference, sum(requests)::bigint as requests, price, price_id, plan,
        sum(amount) as amount, round(sum(amount), {_DIGITS}) as rounded, count(*)::int as lines
    from sorted where inside group by period, class, 3, 4, price, price_id, plan
)
"""
_ROUNDED: Final = f"{_GROUPS} select coalesce(sum(rounded), 0) from groups where kind <> 'credit'"
_SHOWN: Final = f"""
{_GROUPS}
select * from groups order by period,
    array_position(array['credit', 'plan', 'charge', 'correction', 'unused'], kind),
    hour, single, plan nulls first, price_id, price limit $6 offset $7
"""


async def page_ledger(connection: Connection, question: QueryLedger) -> LedgerPage:
    """Return lines in order of (booked_at, id). The zone is a valid one.

    A page may have fewer rows than its limit, even none, and a ``next``: it passed lines that were
    booked in the period and belong to another month."""
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
    next_mark = None
    if len(rows) == question.limit:
        last = rows[-1]
        next_mark = f"{last['booked_at'].isoformat()}|{last['id']}"
    return LedgerPage(rows=[_ledger_row(row) for row in rows if row["inside"]], next=next_mark)


async def load_statement(
    connection: Connection, question: ShowStatement, month: StatementMonth, now: datetime
) -> Statement:
    """Return the totals and one page of lines. Run in one snapshot, or they may not add up."""
    period = (question.account, question.zone, month.start, month.end)
    totals = await connection.fetchrow(_TOTALS, *period)
    rounded = await connection.fetchval(_ROUNDED, *period, month.bounds)
    rows = await connection.fetch(_SHOWN, *period, month.bounds, question.limit, question.after)
    currency = await connection.fetchval(
        "select currency from accounts where account = $1", question.account
    )
    is_full = len(rows) == question.limit
    return Statement(
        account=question.account,
        currency=currency or DEFAULT_CURRENCY,
        month=question.month,
        zone=question.zone,
        start=month.start,
        end=month.end,
        final=month.is_settled(now),
        totals=_statement_totals(totals, rounded),
        lines=[_statement_line(row, month.bounds) for row in rows],
        next=question.after + len(rows) if is_full else None,
    )


def _ledger_row(row: Any) -> LedgerRow:
    hour = None if row["hour"] is None else hour_time(row["hour"])
    return LedgerRow(
        id=row["id"],
        account=row["account"],
        kind=row["kind"],
        booked_at=row["booked_at"],
        billed_at=row["billed_at"],
        late=hour is not None and row["billed_at"] != hour,
        hour=hour,
        requests=row["requests"],
        price=_plain_or_none(row["price"]),
        price_id=row["price_id"],
        plan=row["plan"],
        plan_cost=_plain_or_none(row["plan_cost"]),
        amount=plain(row["amount"]),
        currency=row["currency"],
        reference=row["reference"],
    )


def _statement_line(row: Any, bounds: Sequence[UnixMinute]) -> StatementLine:
    # width_bucket() counts periods from 1.
    return StatementLine(
        start=minute_time(bounds[row["period"] - 1]),
        end=minute_time(bounds[row["period"]]),
        kind=row["kind"],
        hour=None if row["hour"] is None else hour_time(row["hour"]),
        reference=row["reference"],
        requests=row["requests"],
        price=_plain_or_none(row["price"]),
        price_id=row["price_id"],
        plan=row["plan"],
        amount=plain(row["amount"]),
        rounded=plain(row["rounded"]),
        lines=row["lines"],
    )


def _statement_totals(row: Any, rounded: Decimal) -> StatementTotals:
    exact = row["charges"] + row["corrections"] + row["plans"]
    return StatementTotals(
        opening=plain(row["opening"]),
        credits=plain(row["credits"]),
        charges=plain(row["charges"]),
        corrections=plain(row["corrections"]),
        plans=plain(row["plans"]),
        closing=plain(row["closing"]),
        requests=row["requests"],
        rounded=plain(rounded),
        rounding=plain(rounded - exact),
    )


def _plain_or_none(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else plain(amount)


def _parse_mark(mark: str | None) -> tuple[datetime, int]:
    if mark is None:
        return EPOCH, 0
    time, _, number = mark.partition("|")
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is not None and len(number) < 19:
            return at, int(number)
    except ValueError:
        pass
    raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
