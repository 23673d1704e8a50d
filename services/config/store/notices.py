"""Notices of a certificate's end (rule C5). What is due is recorded in the transaction that sends
it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.storage.pool import Connection, Pool

# Only the notice of the current stretch is due: earlier ones that were missed are not made up for.
# The primary key lets one of two replicas have it. A suspended certificate is not served.
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
    where not d.removed and not d.suspended
    and d.served_until <= $1::timestamptz + interval '30 days'
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
_COUNT = """
select count(*) filter (where days <= 0) as expired,
    count(*) filter (where days > 0 and days <= 1) as one,
    count(*) filter (where days > 1 and days <= 7) as seven,
    count(*) filter (where days > 7 and days <= 14) as fourteen,
    count(*) filter (where days > 14 and days <= 30) as thirty,
    count(*) filter (where days > 30) as more,
    min(days) as least
from (select extract(epoch from served_until - $1::timestamptz)::float8 / 86400 as days from domains
    where not removed and served_until is not null) as lasting
"""


@dataclass(frozen=True)
class ExpiryNotice:
    """``days``: 30, 14, 7, 1, or 0 when the certificate ended. ``certificate``: id of its
    submission."""

    domain: str
    certificate: str
    days: int
    account: str
    served_until: datetime


@dataclass(frozen=True)
class DaysLeft:
    """How many domains have a certificate with so many days left.

    ``least``: days left of the first to end, None without any."""

    expired: int = 0
    one: int = 0
    seven: int = 0
    fourteen: int = 0
    thirty: int = 0
    more: int = 0
    least: float | None = None


async def take_notices(connection: Connection, at: datetime, limit: int) -> list[ExpiryNotice]:
    """Record and return notices that are due now and were never given, the first to end first."""
    rows = await connection.fetch(_TAKE, at, limit)
    return [ExpiryNotice(**dict(row)) for row in rows]


async def forget_notices(connection: Connection, at: datetime) -> None:
    """Delete notices of certificates that are neither served, nor kept for a rollback, nor in the
    library: they do not come back."""
    await connection.execute(_FORGET, at)


async def count_days_left(pool: Pool, at: datetime) -> DaysLeft:
    """Count domains by the days that their certificate has left at the time ``at``."""
    row = await pool.fetchrow(_COUNT, at)
    return DaysLeft() if row is None else DaysLeft(**dict(row))
