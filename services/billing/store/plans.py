"""Plans that were bought, what charged hours took from them, and how far each month is into its
tiers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.billing.domain.charging import BoughtPlan, ChargeLine, HourCount, TierKey
from services.billing.store import Reader
from services.billing.store.accounts import hour_time
from shared.contracts.prices import PlanView
from shared.money import plain
from shared.storage.pool import Connection

_PACKS: Final = """
select p.account, p.reference, p.requests, p.start_hour, p.end_hour, p.amount, coalesce((
    select sum(u.requests) from plan_uses u
    where u.account = p.account and u.reference = p.reference
      and u.hour < f.hour), 0)::bigint as used
from unnest($1::text[], $2::int[]) as f (account, hour)
join plans p on p.account = f.account and p.end_hour > f.hour
"""
_HOURS: Final = """
select h.account, h.hour, h.requests, h.charged, h.postings
from unnest($1::text[], $2::int[], $3::bool[]) as f (account, hour, every)
join account_hours h on h.account = f.account and (
    (h.hour < $4 and h.requests <> h.charged) or (f.every and h.hour >= f.hour and (h.hour < $4
      or h.postings > 0))
)
order by h.account, h.hour
"""
_LEFT: Final = """
select p.account, sum(p.requests - coalesce((
    select sum(u.requests) from plan_uses u where u.account = p.account
      and u.reference = p.reference), 0))::bigint
from plans p where p.account = any($1::text[]) and p.end_hour > $2 group by p.account
"""
_FORFEIT: Final = """
with ending as (
    select p.account, p.reference, p.end_hour, p.currency, p.unused, p.unused_cost,
        p.requests - coalesce((select sum(u.requests) from plan_uses u
            where u.account = p.account and u.reference = p.reference), 0) as requests,
        p.amount - coalesce((select sum(l.plan_cost) from ledger l
            where l.account = p.account and l.hour >= p.start_hour and l.hour < p.end_hour
              and l.plan = p.reference
            and l.kind <> 'unused'), 0) as cost
    from plans p where p.account = any($1::text[]) and p.end_hour <= $2
        and (not p.ended or (p.account, p.reference) in (select *
        from unnest($4::text[], $5::text[])))
),
changed as (select * from ending where requests <> unused or cost <> unused_cost),
noted as (
    update plans p set unused = c.requests, unused_cost = c.cost from changed c
    where p.account = c.account and p.reference = c.reference
)
insert into ledger (account, kind, amount, currency, hour, requests, plan, plan_cost, at)
select account, 'unused', 0, currency, end_hour - 1, requests - unused, reference, cost -
unused_cost, $3 from changed
order by account, reference returning account
"""
_VIEW: Final = """
select p.account, p.reference, p.plan, p.requests, p.start_hour, p.end_hour, p.amount, p.currency,
    coalesce((
        select sum(u.requests) from plan_uses u where u.account = p.account
          and u.reference = p.reference
    ), 0)::bigint as used
from plans p where p.account = $1
"""


@dataclass
class ChargeInput:
    """What the charge of one account is made from."""

    hours: list[HourCount] = field(default_factory=list)
    packs: list[BoughtPlan] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    used: dict[TierKey, int] = field(default_factory=dict)


async def load_charge_inputs(
    connection: Connection, since: Mapping[str, int], past: int
) -> dict[str, ChargeInput]:
    """Of locked accounts; ``since``: the first hour of each that must be rated anew. Hours before
    ``past``; where there are plans, later ones too that were charged already: they may have to give
    back what they took."""
    found = {account: ChargeInput() for account in since}
    names, firsts = list(since), list(since.values())
    for row in await connection.fetch(_PACKS, names, firsts):
        one = found[row["account"]]
        one.packs.append(
            BoughtPlan(
                row["reference"],
                row["requests"],
                row["start_hour"],
                row["end_hour"],
                plain(row["amount"]),
            )
        )
        one.left[row["reference"]] = row["requests"] - row["used"]
    rows = await connection.fetch(
        _HOURS, names, firsts, [bool(found[name].packs) for name in names], past
    )
    covered: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for row in await connection.fetch(
        "select account, hour, reference, requests from plan_uses where requests > 0 and "
        "(account, hour) in"
        " (select * from unnest($1::text[], $2::int[]))",
        [r["account"] for r in rows],
        [r["hour"] for r in rows],
    ):
        covered[row["account"], row["hour"]][row["reference"]] = row["requests"]
    for row in rows:
        found[row["account"]].hours.append(
            HourCount(
                row["hour"],
                row["requests"],
                row["charged"],
                row["postings"],
                covered[row["account"], row["hour"]],
            )
        )
    for row in await connection.fetch(
        "select account, month, price_id, requests from tier_uses where account = any($1::text[])",
        names,
    ):
        found[row["account"]].used[row["month"], row["price_id"]] = row["requests"]
    return found


async def record_plan_uses(
    connection: Connection,
    made: Mapping[str, Sequence[ChargeLine]],
    dues: Mapping[str, ChargeInput],
) -> None:
    """What the lines took from plans, and where the months are in their tiers now."""
    taken = {
        (account, count.hour, reference): requests
        for account, one in dues.items()
        for count in one.hours
        for reference, requests in count.covered.items()
    }
    moved = [
        (
            account,
            line.hour,
            line.plan,
            taken.get((account, line.hour, line.plan), 0) + line.requests,
        )
        for account, lines in made.items()
        for line in lines
        if line.plan is not None
    ]
    await connection.executemany(
        "insert into plan_uses (account, hour, reference, requests) values ($1, $2, $3, $4)"
        " on conflict (account, hour, reference) do update set requests = excluded.requests",
        moved,
    )
    await connection.executemany(
        "insert into tier_uses (account, month, price_id, requests) values ($1, $2, $3, $4)"
        " on conflict (account, month, price_id) do update set requests = excluded.requests",
        [
            (account, *key, requests)
            for account, one in dues.items()
            for key, requests in sorted(one.used.items())
        ],
    )


async def load_requests_left(
    connection: Connection, accounts: Sequence[str], hour: int
) -> dict[str, int]:
    """Requests left in the plans that run on after ``hour``."""
    rows = await connection.fetch(_LEFT, accounts, hour)
    return {row[0]: row[1] for row in rows}


async def end_plans(connection: Connection, accounts: Sequence[str], past: int) -> None:
    """Marks the plans that ended at or before ``past``: their rest is forfeited."""
    await connection.execute(
        "update plans set ended = true where account = any($1::text[]) and end_hour <= $2 and "
        "not ended",
        accounts,
        past,
    )


async def forfeit_plans(
    connection: Connection,
    accounts: Sequence[str],
    made: Mapping[str, Sequence[ChargeLine]],
    past: int,
    at: datetime,
) -> dict[str, int]:
    """Writes down what is left of the plans that end at or before ``past``, or what lately changed
    of it: the requests and the rest of the price that no use has. Lines by account."""
    touched = {
        (account, line.plan)
        for account, lines in made.items()
        for line in lines
        if line.plan is not None
    }
    rows = await connection.fetch(
        _FORFEIT,
        accounts,
        past,
        at,
        [account for account, _ in touched],
        [reference for _, reference in touched],
    )
    return Counter(row["account"] for row in rows)


async def add_plan(
    connection: Connection, account: str, pack: BoughtPlan, plan: str, currency: str, at: datetime
) -> None:
    await connection.execute(
        "insert into plans (account, reference, plan, requests, start_hour, end_hour, amount, "
        "currency, bought_at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        account,
        pack.reference,
        plan,
        pack.requests,
        pack.start,
        pack.end,
        pack.price,
        currency,
        at,
    )


async def find_plan(
    connection: Reader, account: str, reference: str, now: datetime
) -> PlanView | None:
    row = await connection.fetchrow(_VIEW + " and p.reference = $2", account, reference)
    return None if row is None else _plan_view(dict(row), now)


async def page_plans(
    connection: Reader, account: str, after: str | None, limit: int, now: datetime
) -> list[PlanView]:
    """Soonest to expire first; ``after``: page_mark() of the last one seen."""
    end_hour, _, reference = (after or "").partition("|")
    rows = await connection.fetch(
        _VIEW
        + " and (p.end_hour, p.reference) > ($2, $3) order by p.end_hour, p.reference limit $4",
        account,
        int(end_hour) if end_hour.isdecimal() and len(end_hour) < 9 else -1,
        reference,
        limit,
    )
    return [_plan_view(dict(row), now) for row in rows]


def plan_mark(plan: PlanView) -> str:
    return f"{int(plan.end.timestamp()) // 3600}|{plan.reference}"


def _plan_view(row: dict[str, object], now: datetime) -> PlanView:
    start, past = hour_time(row.pop("start_hour")), hour_time(row.pop("end_hour"))  # type: ignore[arg-type]
    left_over = row["requests"] - row["used"]  # type: ignore[operator]
    return PlanView.model_validate(
        {
            **row,
            "amount": plain(row["amount"]),  # type: ignore[arg-type]
            "left": left_over,
            "start": start,
            "end": past,
            "ended": past <= now,
        }
    )
