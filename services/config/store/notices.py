"""Notices of a certificate's end (rule C5): what is due is written down in the transaction that
sends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.storage.pool import Connection, Pool

# Only the notice of the current stretch is due: those that passed unseen are not made up for. The
# primary key lets one of two replicas have it. A suspended certificate is not served.
_TAKE = """
with due as (
    select d.name, d.account, d.served_until, p.submission_id, stretch.days
    from domains d
    join pairs p on p.domain = d.name and p.slot = 'live' and p.position = 0
    cross join lateral (select case
        when d.served_until <= $1::timestamptz then 0
        when d.served_until <= $1::timestamptz + interval '1 day' then 1
        when d.served_until <= $1::timestamptz + interval '7 days' then 7
        when d.served_until <= $1::timestamptz + interval '14 days' then 14
        else 30 end as days) stretch
    where not d.removed and not d.suspended and d.served_until <= $1::timestamptz + interval '30
      days'
    and not exists (select from expiry_notices n
        where n.domain = d.name and n.certificate = p.submission_id and n.days = stretch.days)
    order by d.served_until limit $2
), taken as (
    insert into expiry_notices (domain, certificate, days, sent_at)
    select name, submission_id, days, $1::timestamptz from due on conflict do nothing
    returning domain, certificate, days
)
select t.*, d.account, d.served_until from taken t join due d on d.name = t.domain
order by d.served_until
"""
_FORGET = """
delete from expiry_notices n where sent_at < $1::timestamptz - interval '35 days'
    and not exists (select from pairs p where p.domain = n.domain
      and p.submission_id = n.certificate)
    and not exists (select from certificates c where c.submission_id = n.certificate)
"""
_LEFT = """
select count(*) filter (where days <= 0) as expired, count(*) filter (where days > 0
  and days <= 1) as one,
    count(*) filter (where days > 1 and days <= 7) as seven,
    count(*) filter (where days > 7 and days <= 14) as fourteen,
    count(*) filter (where days > 14 and days <= 30) as thirty, count(*) filter (where days > 30)
    as more,
    min(days) as least
from (select extract(epoch from served_until - $1::timestamptz)::float8 / 86400 as days from domains
    where not removed and served_until is not null) as lasting
"""


@dataclass(frozen=True)
class Notice:
    """``days``: 30, 14, 7, 1, or 0 when it ended. ``certificate``: the submission that it came
    with."""

    domain: str
    certificate: str
    days: int
    account: str
    served_until: datetime


async def take(connection: Connection, at: datetime, limit: int) -> list[Notice]:
    """Notices that are due now and were never taken, the first to end first."""
    return [Notice(**dict(row)) for row in await connection.fetch(_TAKE, at, limit)]


async def forget(connection: Connection, at: datetime) -> None:
    """Of certificates that are neither served, nor kept for a rollback or in the library: they do
    not come back."""
    await connection.execute(_FORGET, at)


@dataclass(frozen=True)
class Left:
    """Domains by the days that their certificate has left; ``least``: days of the first to end,
    None without any."""

    expired: int
    one: int
    seven: int
    fourteen: int
    thirty: int
    more: int
    least: float | None


async def left(pool: Pool, at: datetime) -> Left:
    row = await pool.fetchrow(_LEFT, at)
    return Left(**dict(row)) if row is not None else Left(0, 0, 0, 0, 0, 0, None)
