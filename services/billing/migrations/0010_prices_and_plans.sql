-- migrate:up

-- Who pays what: the book that is current is the one with the highest serial; without any, the list price of the code.
create table price_books (
    serial integer primary key,
    body text not null,
    command_id text not null unique,
    applied_at timestamptz not null
);
create function price_books_are_kept() returns trigger language plpgsql as $$
begin
    raise exception 'a price book that was applied stays: apply another one' using errcode = 'restrict_violation';
end $$;
create trigger price_books_kept before update or delete or truncate on price_books
    for each statement execute function price_books_are_kept();

-- Plans that were bought. Hours of Unix time; end_hour is the first one that it does not cover.
create table plans (
    account text collate "C" not null references accounts,
    reference text collate "C" not null,
    plan text not null,
    requests bigint not null check (requests > 0),
    start_hour integer not null,
    end_hour integer not null check (end_hour > start_hour),
    amount numeric(38, 18) not null check (amount >= 0),
    currency text not null,
    bought_at timestamptz not null,
    ended boolean not null default false,
    primary key (account, reference)
);
create index plans_running on plans (end_hour, account) where not ended;

-- What the charged hours took from plans, and how far each month is into the tiers of its price.
create table plan_uses (
    account text collate "C" not null,
    hour integer not null,
    reference text collate "C" not null,
    requests bigint not null check (requests >= 0),
    primary key (account, hour, reference),
    foreign key (account, reference) references plans
);
create table tier_uses (
    account text collate "C" not null,
    month integer not null,
    price_id text collate "C" not null,
    requests bigint not null check (requests >= 0),
    primary key (account, month, price_id)
);

-- A charge line says what it is made of. plan: the reference of the plan that was bought or used; plan_cost: the part
-- of that plan's price that the requests used up.
alter table ledger add column line integer not null default 0, add column price_id text, add column plan text,
    add column plan_cost numeric(38, 18);
alter table ledger drop constraint ledger_kind_check, drop constraint ledger_check, drop constraint ledger_check1,
    drop constraint ledger_account_hour_posting_key;
alter table ledger add constraint ledger_kind_check check (kind in ('credit', 'charge', 'correction', 'plan')),
    add constraint ledger_reference_check check ((kind in ('credit', 'plan')) = (reference is not null)),
    add constraint ledger_usage_check check (
        (kind in ('credit', 'plan') and hour is null and posting is null and requests is null)
        or (kind in ('charge', 'correction') and hour is not null and posting is not null and requests is not null
            and price is not null)),
    add constraint ledger_sign_check check (
        kind = 'correction' or (kind = 'credit') = (amount > 0) and (kind = 'credit' or amount <= 0)),
    add constraint ledger_plan_check check (kind <> 'plan' or (plan is not null and plan = reference)),
    add constraint ledger_currency_check check (currency ~ '^[A-Z]{3}$'),
    add constraint ledger_account_hour_posting_line_key unique (account, hour, posting, line);
-- Not even the service itself may change a line; the trigger stays for whoever has more rights.
do $$ begin
    execute format('revoke update, delete, truncate on ledger from %I', current_user);
    execute format('revoke update, delete, truncate on price_books from %I', current_user);
end $$;

-- plan_left, tier_used: as of the last charge; what accrues since is rated with them. rate_from: the first hour that
-- must be rated anew though its count did not change (a plan was bought for it).
alter table accounts drop column recent_requests, add column recent_amount numeric(38, 18) not null default 0,
    add column plan_left bigint not null default 0, add column tier_key text, add column tier_used bigint not null default 0,
    add column rate_from integer, add column depleted_since timestamptz, add column overdue boolean not null default false;
alter table account_hours add column amount numeric(38, 18) not null default 0;
update account_hours h set amount = l.cost from (
    select account, hour, -sum(amount) as cost from ledger where hour is not null group by account, hour
) l where l.account = h.account and l.hour = h.hour;
update accounts a set recent_amount = (
    select coalesce(sum(amount), 0) from (
        select amount from account_hours h where h.account = a.account and postings > 0 and charged > 0
        order by hour desc limit 7) recent
);
update accounts set depleted_since = now() where depleted;
insert into tier_uses (account, month, price_id, requests)
select account, extract(year from to_timestamp(hour::bigint * 3600) at time zone 'UTC')::int * 12
        + extract(month from to_timestamp(hour::bigint * 3600) at time zone 'UTC')::int - 1,
    'list-' || lower(currency), sum(requests)
from ledger where hour is not null group by 1, 2, 3;
create index accounts_depleted on accounts (depleted_since) where depleted and not overdue;

-- migrate:down
drop table tier_uses, plan_uses, plans, price_books;
drop function price_books_are_kept();
