-- migrate:up

-- What finance reads, and nothing else (docs/finance.md). The role edgetls_finance gets select on the views of this
-- schema; they run with the rights of their owner, so it needs none on the tables behind them.
create schema finance;
comment on schema finance is 'Read-only views for finance: docs/finance.md says what a row means.';

-- Whole hours and minutes of Unix time: compare the columns unix_hour and unix_minute with these, and indexes are used.
create function finance.unix_hour(at timestamptz) returns integer language sql immutable parallel safe
    return ceil(extract(epoch from at) / 3600)::integer;
create function finance.unix_minute(at timestamptz) returns integer language sql immutable parallel safe
    return ceil(extract(epoch from at) / 60)::integer;
create function finance.hour_start(unix_hour integer) returns timestamptz language sql immutable parallel safe
    return to_timestamp(unix_hour::bigint * 3600);

-- When the month of the bill that ``at`` lies in begins, and when the next one does, in a time zone.
create function finance.month_end(at timestamptz, zone text) returns timestamptz language sql immutable parallel safe
    return (date_trunc('month', at at time zone zone) + interval '1 month') at time zone zone;

-- Where a bill dates a line: at the hour of its usage, but at its booking when the month of that hour was settled by
-- then, which is 24 hours after the month's end. So a settled month never changes, and every line is in one month.
create function finance.billed_at(hour integer, booked_at timestamptz, zone text) returns timestamptz
    language sql immutable parallel safe
    return case
        when hour is null then booked_at
        when booked_at < finance.month_end(finance.hour_start(hour), zone) + interval '24 hours'
            then finance.hour_start(hour)
        else booked_at
    end;

create index ledger_account_at on ledger (account, at, id);
create index ledger_at on ledger (at, id);
create index usage_minutes_unattributed on usage_minutes (minute) where account = '';

create view finance.ledger as
select l.id, l.account, l.kind, l.at as booked_at, finance.billed_at(l.hour, l.at, 'UTC') as billed_at,
    finance.hour_start(l.hour) as usage_hour, l.hour as unix_hour, l.requests, l.price as price_per_10000, l.price_id, l.plan, l.plan_cost, l.amount, l.currency,
    l.reference
from ledger l;
comment on view finance.ledger is
    'Every line of the append-only ledger. amount: what it does to the balance. billed_at: in UTC months; for another '
    'zone finance.billed_at(unix_hour, booked_at, zone).';

create view finance.charges as
select id, account, kind, booked_at, billed_at, usage_hour, unix_hour, requests, price_per_10000, price_id, plan,
    plan_cost, -amount as cost, currency
from finance.ledger where usage_hour is not null;
comment on view finance.charges is 'The ledger''s lines for usage: charges and corrections. cost: above 0 is owed.';

create view finance.usage_minutes as
select account, domain, node, to_timestamp(minute::bigint * 60) as start, minute as unix_minute, https_requests,
    https_bytes, http_requests, http_bytes
from usage_minutes;
comment on view finance.usage_minutes is 'Requests and bytes by minute (UTC). account '''': nobody''s yet.';

create view finance.usage_hours as
select account, domain, node, finance.hour_start(hour) as start, hour as unix_hour, https_requests, https_bytes,
    http_requests, http_bytes
from usage_hours h where not exists (select from touched_hours t where t.hour = h.hour)
union all
select m.account, m.domain, m.node, finance.hour_start(t.hour), t.hour, sum(m.https_requests)::bigint,
    sum(m.https_bytes)::bigint, sum(m.http_requests)::bigint, sum(m.http_bytes)::bigint
from (select distinct hour from touched_hours) t
join usage_minutes m on m.minute >= t.hour * 60 and m.minute < t.hour * 60 + 60
group by m.account, m.domain, m.node, t.hour;
comment on view finance.usage_hours is 'Requests and bytes by hour (UTC), the running hour included.';

create view finance.unattributed as
select domain, node, to_timestamp(minute::bigint * 60) as start, minute as unix_minute, https_requests, https_bytes,
    http_requests, http_bytes
from usage_minutes where account = '';
comment on view finance.unattributed is 'Usage of domains that no account owned: charged when the owner becomes known.';

create view finance.balances as
select account, currency, ledger, accrued_requests, threshold, low, depleted, overdue from accounts;
comment on view finance.balances is 'ledger: the sum of the account''s lines. accrued_requests: counted, not charged yet.';

create view finance.plans as
select p.account, p.reference, p.plan, p.requests, coalesce(u.used, 0)::bigint as used, finance.hour_start(p.start_hour)
    as start, finance.hour_start(p.end_hour) as "end", p.amount, p.currency, p.bought_at
from plans p left join (select account, reference, sum(requests) as used from plan_uses group by 1, 2) u
    using (account, reference);
comment on view finance.plans is 'Plans that were bought. used: by charged hours; the rest is forfeited at the end.';

create view finance.price_books as select serial, applied_at, body from price_books;
comment on view finance.price_books is 'Every price book that was applied, as JSON; the highest serial is current.';

create view finance.logs as
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.last_seen,
    (select count(*) from held_batches h where h.node = l.node and h.log = l.log) as held,
    greatest(l.read_to, coalesce(l.final_length, 0)) - l.stored_to as missing
from node_logs l;
comment on view finance.logs is 'How far each log of each node is in. missing: bytes that are known of and not in yet.';

create view finance.diverted as
select node, log, start_at, end_at, reason, domain, minute, https_requests, https_bytes, http_requests, http_bytes,
    diverted_at
from diverted_cells;
comment on view finance.diverted is 'Counts that could not be billed, each with its reason.';

create view finance.conflicts as select source, id, at from request_conflicts;
comment on view finance.conflicts is 'Single events that came again with another content: the first one counted.';

-- migrate:down
drop schema finance cascade;
drop index ledger_account_at, ledger_at, usage_minutes_unattributed;
