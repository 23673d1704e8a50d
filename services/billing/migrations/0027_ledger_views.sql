-- migrate:up

-- What a bill of a zone calls a line: the first charge of an hour whose month was settled corrects that month.
create function finance.line_class(kind text, hour integer, booked_at timestamptz, zone text) returns text
    language sql immutable parallel safe
    return case when kind = 'charge' and finance.billed_at(hour, booked_at, zone) <> finance.hour_start(hour)
        then 'correction' else kind end;

create or replace view finance.ledger as
select l.id, l.account, l.kind, l.at as booked_at, finance.billed_at(l.hour, l.at, 'UTC') as billed_at,
    finance.hour_start(l.hour) as usage_hour, l.hour as unix_hour, coalesce(l.requests, p.requests) as requests,
    l.price as price_per_10000, coalesce(l.price_id, p.plan) as price_id, l.plan, l.plan_cost, l.amount,
    l.currency, l.reference, finance.line_class(l.kind, l.hour, l.at, 'UTC') as class, l.posting, l.line
from ledger l left join plans p on l.kind = 'plan' and p.account = l.account and p.reference = l.reference;
comment on view finance.ledger is
    'Every line of the append-only ledger. amount: what it does to the balance. billed_at and class: of bills in UTC; for '
    'another zone finance.billed_at(unix_hour, booked_at, zone) and finance.line_class(kind, unix_hour, booked_at, zone). '
    'posting counts the times that an hour was charged, line the lines of each. Of a plan that was bought requests is '
    'what it holds and price_id its name.';

create or replace view finance.charges as
select id, account, kind, booked_at, billed_at, usage_hour, unix_hour, requests, price_per_10000, price_id, plan,
    plan_cost, -amount as cost, currency, class, posting, line
from finance.ledger where kind <> 'credit';
comment on view finance.charges is
    'The ledger''s lines that cost: charges, corrections, plans. cost: above 0 is owed.';

-- migrate:down
drop view finance.charges, finance.ledger;
drop function finance.line_class(text, integer, timestamptz, text);
