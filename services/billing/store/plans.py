"""Plans that were bought, the requests that hours took from them, and each month's tier use."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from services.billing.domain.charging import BoughtPlan, ChargeLine, HourCount, TierKey
from services.billing.domain.units import UnixHour, hour_of, hour_time
from services.billing.domain.usage_aggregator import AccountHour
from services.billing.store import Reader
from services.billing.store.columns import ACCOUNT_HOURS, RowColumns
from shared.contracts.prices import PlanView
from shared.money import plain
from shared.storage.pool import Connection

_RATED_FROM: Final = RowColumns(account="text", hour="int", all_hours="bool")
_PLANS: Final = f"""
select p.account, p.reference, p.requests, p.start_hour, p.end_hour, p.amount, coalesce((
    select sum(u.requests) from plan_uses u
    where u.account = p.account and u.reference = p.reference and u.hour < f.hour
), 0)::bigint as used
from {ACCOUNT_HOURS.unnest("f")} join plans p on p.account = f.account and p.end_hour > f.hour
"""
_HOURS: Final = f"""
select h.account, h.hour, h.requests, h.charged, h.postings
from {_RATED_FROM.unnest("f", first=2)} join account_hours h on h.account = f.account and (
    (h.hour < $1 and h.requests <> h.charged)
    or (f.all_hours and h.hour >= f.hour and (h.hour < $1 or h.postings > 0))
)
order by h.account, h.hour
"""
_COVERED: Final = f"""
select account, hour, reference, requests from plan_uses
where requests > 0 and (account, hour) in (select * from {ACCOUNT_HOURS.unnest()})
"""
_TIER_USES: Final = """
select account, month, price_id, requests from tier_uses where account = any($1::text[])
"""
_SAVE_PLAN_USE: Final = """
insert into plan_uses (account, hour, reference, requests) values ($1, $2, $3, $4)
on conflict (account, hour, reference) do update set requests = excluded.requests
"""
_SAVE_TIER_USE: Final = """
insert into tier_uses (account, month, price_id, requests) values ($1, $2, $3, $4)
on conflict (account, month, price_id) do update set requests = excluded.requests
"""
_LEFT: Final = """
select p.account, sum(p.requests - coalesce((
    select sum(u.requests) from plan_uses u
    where u.account = p.account and u.reference = p.reference
), 0))::bigint as requests
from plans p where p.account = any($1::text[]) and p.end_hour > $2 group by p.account
"""
_END: Final = """
update plans set ended = true where account = any($1::text[]) and end_hour <= $2 and not ended
"""
_FORFEIT: Final = """
with ending as (
    select p.account, p.reference, p.end_hour, p.currency, p.unused, p.unused_cost,
        p.requests - coalesce((
            select sum(u.requests) from plan_uses u
            where u.account = p.account and u.reference = p.reference
        ), 0) as requests,
        p.amount - coalesce((
            select sum(l.plan_cost) from ledger l
            where l.account = p.account and l.hour >= p.start_hour and l.hour < p.end_hour
                and l.plan = p.reference and l.kind <> 'unused'
        ), 0) as cost
    from plans p where p.account = any($1::text[]) and p.end_hour <= $2 and (
        not p.ended
        or (p.account, p.reference) in (select * from unnest($4::text[], $5::text[]))
    )
),
changed as (select * from ending where requests <> unused or cost <> unused_cost),
noted as (
    update plans p set unused = c.requests, unused_cost = c.cost from changed c
    where p.account = c.account and p.reference = c.reference
)
insert into ledger (account, kind, amount, currency, hour, requests, plan, plan_cost, at)
select account, 'unused', 0, currency, end_hour - 1, requests - unused, reference,
    cost - unused_cost, $3
from changed order by account, reference returning account
"""
_BUY: Final = """
insert into plans
    (account, reference, plan, requests, start_hour, end_hour, amount, currency, bought_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_VIEW: Final = """
select p.account, p.reference, p.plan, p.requests, p.start_hour, p.end_hour, p.amount, p.currency,
    coalesce((
        select sum(u.requests) from plan_uses u
        where u.account = p.account and u.reference = p.reference
    ), 0)::bigint as used
from plans p where p.account = $1
"""
_PAGE: Final = f"""
{_VIEW} and (p.end_hour, p.reference) > ($2, $3) order by p.end_hour, p.reference limit $4
"""


@dataclass
class ChargeInput:
    """The input of the charge of one account (domain/charging.py).

    ``left``: requests left in each plan before the first hour; ``used``: by month and price."""

    hours: list[HourCount] = field(default_factory=list)
    plans: list[BoughtPlan] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    used: dict[TierKey, int] = field(default_factory=dict)


async def load_charge_inputs(
    connection: Connection, since: Mapping[str, UnixHour], end: UnixHour
) -> dict[str, ChargeInput]:
    """Return the inputs of locked accounts; ``since``: the first hour of each to rate anew.

    They have the hours before ``end``. Where there are plans, they also have later hours that were
    charged already: those may have to give back what they took."""
    inputs = {account: ChargeInput() for account in since}
    await _load_plans(connection, since, inputs)
    await _load_hours(connection, since, end, inputs)
    for row in await connection.fetch(_TIER_USES, list(since)):
        inputs[row["account"]].used[row["month"], row["price_id"]] = row["requests"]
    return inputs


async def _load_plans(
    connection: Connection, since: Mapping[str, UnixHour], inputs: Mapping[str, ChargeInput]
) -> None:
    for row in await connection.fetch(_PLANS, list(since), list(since.values())):
        plan = BoughtPlan(
            reference=row["reference"],
            requests=row["requests"],
            start=row["start_hour"],
            end=row["end_hour"],
            price=plain(row["amount"]),
        )
        one = inputs[row["account"]]
        one.plans.append(plan)
        one.left[plan.reference] = plan.requests - row["used"]


async def _load_hours(
    connection: Connection,
    since: Mapping[str, UnixHour],
    end: UnixHour,
    inputs: Mapping[str, ChargeInput],
) -> None:
    """Load the hours to rate, with what plans took of each. Needs the plans."""
    # Without plans only the hours whose count changed are rated: a month's tiers do not depend on
    # the order of its hours. With plans every hour from the first changed one on is rated, for what
    # an earlier hour takes from a plan is missing in the later ones.
    rated_from = []
    for account, hour in since.items():
        rated_from.append((account, hour, bool(inputs[account].plans)))
    rows = await connection.fetch(_HOURS, end, *_RATED_FROM.from_tuples(rated_from))
    keys = [(row["account"], row["hour"]) for row in rows]
    covered: dict[AccountHour, dict[str, int]] = defaultdict(dict)
    for row in await connection.fetch(_COVERED, *ACCOUNT_HOURS.from_tuples(keys)):
        covered[row["account"], row["hour"]][row["reference"]] = row["requests"]
    for row in rows:
        count = HourCount(
            hour=row["hour"],
            requests=row["requests"],
            charged=row["charged"],
            postings=row["postings"],
            covered=covered[row["account"], row["hour"]],
        )
        inputs[row["account"]].hours.append(count)


async def record_plan_uses(
    connection: Connection,
    made: Mapping[str, Sequence[ChargeLine]],
    inputs: Mapping[str, ChargeInput],
) -> None:
    """Store what the lines took from plans, and how far the months are in their tiers now."""
    plan_uses = []
    tier_uses = []
    for account, one in inputs.items():
        covered = {count.hour: count.covered for count in one.hours}
        for line in made[account]:
            if line.plan is not None:
                taken = covered[line.hour].get(line.plan, 0) + line.requests
                plan_uses.append((account, line.hour, line.plan, taken))
        for (month, price_id), requests in sorted(one.used.items()):
            tier_uses.append((account, month, price_id, requests))
    await connection.executemany(_SAVE_PLAN_USE, plan_uses)
    await connection.executemany(_SAVE_TIER_USE, tier_uses)


async def load_requests_left(
    connection: Connection, accounts: Sequence[str], hour: UnixHour
) -> dict[str, int]:
    """Return the requests left in the plans that go on after ``hour``."""
    rows = await connection.fetch(_LEFT, accounts, hour)
    return {row["account"]: row["requests"] for row in rows}


async def end_plans(connection: Connection, accounts: Sequence[str], end: UnixHour) -> None:
    """Mark the plans that ended at or before ``end``. Their rest is forfeited."""
    await connection.execute(_END, accounts, end)


async def forfeit_plans(
    connection: Connection,
    accounts: Sequence[str],
    made: Mapping[str, Sequence[ChargeLine]],
    end: UnixHour,
    at: datetime,
) -> dict[str, int]:
    """Write ledger lines for what is left of plans that end at or before ``end``.

    A line has the requests and the part of the price that no use has. A plan that ended before and
    that ``made`` changes gets another line. Return the number of lines by account."""
    changed: set[tuple[str, str]] = set()
    for account, lines in made.items():
        for line in lines:
            if line.plan is not None:
                changed.add((account, line.plan))
    changed_accounts = [account for account, _ in changed]
    changed_plans = [plan for _, plan in changed]
    rows = await connection.fetch(_FORFEIT, accounts, end, at, changed_accounts, changed_plans)
    return Counter(row["account"] for row in rows)


async def add_plan(
    connection: Connection, account: str, plan: BoughtPlan, name: str, currency: str, at: datetime
) -> None:
    """Store a plan that was bought. ``name``: the id of its offer in the price book."""
    await connection.execute(
        _BUY,
        account,
        plan.reference,
        name,
        plan.requests,
        plan.start,
        plan.end,
        plan.price,
        currency,
        at,
    )


async def find_plan(
    connection: Reader, account: str, reference: str, now: datetime
) -> PlanView | None:
    """Return the plan that was bought under a reference, or None."""
    row = await connection.fetchrow(f"{_VIEW} and p.reference = $2", account, reference)
    return None if row is None else _plan_view(row, now)


async def page_plans(
    connection: Reader, account: str, after: str | None, limit: int, now: datetime
) -> list[PlanView]:
    """Return plans, soonest to end first. ``after``: plan_mark() of the last one seen."""
    hour, _, reference = (after or "").partition("|")
    end_hour = -1
    if hour.isdecimal() and len(hour) < 9:
        end_hour = int(hour)
    rows = await connection.fetch(_PAGE, account, end_hour, reference, limit)
    return [_plan_view(row, now) for row in rows]


def plan_mark(plan: PlanView) -> str:
    """Return the mark of a page's last plan, after which the next page begins."""
    return f"{hour_of(plan.end)}|{plan.reference}"


def _plan_view(row: Any, now: datetime) -> PlanView:
    end = hour_time(row["end_hour"])
    return PlanView(
        account=row["account"],
        reference=row["reference"],
        plan=row["plan"],
        requests=row["requests"],
        used=row["used"],
        left=row["requests"] - row["used"],
        amount=plain(row["amount"]),
        currency=row["currency"],
        start=hour_time(row["start_hour"]),
        end=end,
        ended=end <= now,
    )
