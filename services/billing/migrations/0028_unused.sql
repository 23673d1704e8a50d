-- migrate:up

-- What of a plan was left when it ended, and what that cost: a line of its own, with the amount 0, for the plan was paid
-- when it was bought. With it the parts of a plan's price add up to the price. Late usage makes another such line.
alter table plans add column unused bigint not null default 0, add column unused_cost numeric(38, 18) not null default 0;
alter table ledger drop constraint ledger_kind_check, drop constraint ledger_usage_check,
    drop constraint ledger_account_fkey;
alter table ledger add constraint ledger_kind_check check (kind in ('credit', 'charge', 'correction', 'plan', 'unused')),
    add constraint ledger_usage_check check (case kind
        when 'credit' then hour is null and posting is null and requests is null
        when 'plan' then hour is null and posting is null and requests is null
        when 'unused' then hour is not null and posting is null and requests is not null and plan is not null
            and plan_cost is not null and amount = 0
        else hour is not null and posting is not null and requests is not null and price is not null end);

-- An account is kept in one currency, and so are its lines. At the end of the transaction: the first line sets it.
alter table accounts add constraint accounts_account_currency_key unique (account, currency);
alter table ledger add constraint ledger_account_currency_fkey foreign key (account, currency)
    references accounts (account, currency) deferrable initially deferred;

create or replace view finance.plans as
select p.account, p.reference, p.plan, p.requests, coalesce(u.used, 0)::bigint as used, finance.hour_start(p.start_hour)
    as start, finance.hour_start(p.end_hour) as "end", p.amount, p.currency, p.bought_at, p.unused, p.unused_cost
from plans p left join (select account, reference, sum(requests) as used from plan_uses group by 1, 2) u
    using (account, reference);
comment on view finance.plans is
    'Plans that were bought. used: by charged hours; unused: what was forfeited at the end, and its part of the price.';

comment on view finance.charges is
    'The ledger''s lines that cost: charges, corrections, plans, and what of plans was left unused. cost: above 0 is owed.';

-- migrate:down
alter table ledger drop constraint ledger_account_currency_fkey;
alter table accounts drop constraint accounts_account_currency_key;
