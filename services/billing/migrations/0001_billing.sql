-- migrate:up

-- Every revision of who owns a domain, as config told it. Periods are computed from them (services/billing/owners.py).
-- version: assigned under the exclusive owners lock, so it follows the order of commits; caches ask for what is newer.
create sequence owner_version;
create table domain_facts (
    domain text collate "C" not null,
    revision bigint not null,
    kind text not null check (kind in ('registered', 'removed')),
    account text collate "C" not null,
    at timestamptz not null,
    version bigint not null default nextval('owner_version'),
    primary key (domain, revision)
);
create index domain_facts_version on domain_facts (version);
create index domain_facts_account on domain_facts (account, domain);

create table nodes (
    node text collate "C" primary key,
    state text not null,
    at timestamptz not null
);

-- How far each log is in. held: ranges that wait for an earlier one.
create table node_logs (
    node text collate "C" not null,
    log text collate "C" not null,
    stored_to bigint not null default 0,
    read_to bigint not null default 0,
    final_length bigint,
    last_seen timestamptz not null,
    primary key (node, log),
    check (stored_to >= 0)
);

create table held_batches (
    node text collate "C" not null,
    log text collate "C" not null,
    start_at bigint not null,
    end_at bigint not null,
    body bytea not null,
    held_at timestamptz not null,
    primary key (node, log, start_at, end_at)
);

-- Overlapping, past the final length, malformed: each once, however often it is sent.
create table refused_batches (
    node text collate "C" not null,
    digest bytea not null,
    reason text not null,
    log text,
    start_at bigint,
    end_at bigint,
    stored_to bigint,
    times integer not null default 1,
    buried boolean not null default false,
    first_at timestamptz not null,
    last_at timestamptz not null,
    primary key (node, digest)
);

create table diverted_cells (
    id bigint generated always as identity primary key,
    node text not null,
    log text not null,
    start_at bigint not null,
    end_at bigint not null,
    reason text not null,
    domain text not null,
    minute numeric not null,
    https_requests bigint not null,
    https_bytes bigint not null,
    http_requests bigint not null,
    http_bytes bigint not null,
    diverted_at timestamptz not null
);
create index diverted_cells_at on diverted_cells (diverted_at);

-- Every accepted batch: the truth that usage and charges can be recomputed from. cells: services/billing/decode.py.
create table batch_archive (
    node text collate "C" not null,
    log text collate "C" not null,
    start_at bigint not null,
    end_at bigint not null,
    read_to bigint not null,
    bad_lines bigint not null,
    cell_count integer not null,
    cells bytea not null,
    received_at timestamptz not null,
    primary key (node, log, start_at, received_at)
) partition by range (received_at);
alter table batch_archive alter column cells set storage external;

-- Single events: identity, a digest of the content, and what was counted.
create table requests (
    source text collate "C" not null,
    id text collate "C" not null,
    digest bytea not null,
    domain text not null,
    node text not null,
    minute integer not null,
    bytes bigint not null,
    received_at timestamptz not null,
    primary key (source, id)
);
create table request_conflicts (
    source text collate "C" not null,
    id text collate "C" not null,
    digest bytea not null,
    body bytea not null,
    at timestamptz not null,
    primary key (source, id, digest)
);

-- Usage per domain, node and minute. account '': nobody's (yet). Arrives in order of time: BRIN finds a period.
create table usage_minutes (
    domain text collate "C" not null,
    minute integer not null,
    node text collate "C" not null,
    account text collate "C" not null,
    https_requests bigint not null,
    https_bytes bigint not null,
    http_requests bigint not null,
    http_bytes bigint not null,
    primary key (domain, minute, node),
    check (https_requests >= 0 and https_bytes >= 0 and http_requests >= 0 and http_bytes >= 0)
) with (fillfactor = 80, autovacuum_vacuum_insert_scale_factor = 0.5);
create index usage_minutes_time on usage_minutes using brin (minute) with (pages_per_range = 16, autosummarize = on);

-- The same, rolled up when the hour is over. An hour with a mark in touched_hours is read from usage_minutes instead.
create table usage_hours (
    domain text collate "C" not null,
    hour integer not null,
    node text collate "C" not null,
    account text collate "C" not null,
    https_requests bigint not null,
    https_bytes bigint not null,
    http_requests bigint not null,
    http_bytes bigint not null,
    primary key (domain, hour, node, account)
);
create index usage_hours_time on usage_hours (hour);
create table touched_hours (
    id bigint generated always as identity primary key,
    hour integer not null
);
create index touched_hours_hour on touched_hours (hour);

-- balance = ledger - accrued_requests at the price of the currency. recent_*: the last closed hours with service.
create table accounts (
    account text collate "C" primary key,
    currency text,
    ledger numeric(38, 18) not null default 0,
    entries bigint not null default 0,
    accrued_requests bigint not null default 0,
    threshold numeric(38, 18),
    threshold_at timestamptz,
    recent_requests bigint not null default 0,
    recent_hours integer not null default 0,
    low boolean not null default false,
    depleted boolean not null default false,
    crossing bigint not null default 0
) with (fillfactor = 80);

create table account_hours (
    account text collate "C" not null,
    hour integer not null,
    requests bigint not null default 0,
    charged bigint not null default 0,
    postings integer not null default 0,
    primary key (account, hour)
) with (fillfactor = 80);
create index account_hours_open on account_hours (hour, account) where requests <> charged;

-- Append-only. amount: what it does to the balance (a charge is negative).
create table ledger (
    id bigint generated always as identity primary key,
    account text collate "C" not null references accounts,
    kind text not null check (kind in ('credit', 'charge', 'correction')),
    amount numeric(38, 18) not null,
    currency text not null,
    reference text collate "C",
    hour integer,
    posting integer,
    requests bigint,
    price numeric(38, 18),
    command_id text,
    at timestamptz not null,
    check ((kind = 'credit') = (reference is not null)),
    check ((kind = 'credit') = (hour is null)),
    unique (account, reference),
    unique (account, hour, posting)
);
create function ledger_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only: post a correction instead' using errcode = 'restrict_violation';
end $$;
create trigger ledger_append_only before update or delete or truncate on ledger
    for each statement execute function ledger_is_append_only();

-- migrate:down
drop table ledger, account_hours, accounts, touched_hours, usage_hours, usage_minutes, request_conflicts, requests,
    batch_archive, diverted_cells, refused_batches, held_batches, node_logs, nodes, domain_facts;
drop function ledger_is_append_only();
drop sequence owner_version;
