-- migrate:up
-- The one order of all changes: never reused (services/config/revisions.py).
create sequence revision;

create table domains (
    name text collate "C" primary key,
    parent text collate "C" not null,
    account text collate "C" not null,
    service_type text not null,
    origin jsonb not null,
    trust text not null,
    settings jsonb not null,
    suspended boolean not null,
    removed boolean not null,
    removed_at timestamptz,
    revision bigint not null,
    registered_revision bigint not null,
    registered_at timestamptz not null,
    live_revision bigint,
    pending_id text,
    pending_request text,
    pending_cause jsonb,
    -- The exact bytes that edge_sync signs, their SHA-256, and the epoch of their keys.
    bundle bytea not null,
    bundle_hash text not null,
    bundle_epoch integer not null
);
create index domains_account on domains (account, name);
create index domains_parent on domains (parent) where not removed;
create index domains_pending on domains (pending_id) where pending_id is not null;
create index domains_removed on domains (removed_at) where removed;

-- Accepted pairs, keys sealed to the fleet: the live certificate and the one before it.
create table pairs (
    domain text collate "C" not null references domains (name) on delete cascade,
    slot text not null check (slot in ('live', 'previous')),
    position integer not null,
    submission_id text not null,
    pair_id text collate "C" not null,
    epoch integer not null,
    -- JSON as text: jsonb refuses U+0000, which a certificate's subject may hold.
    pair text not null,
    primary key (domain, slot, position)
);
create index pairs_epoch on pairs (epoch, domain);

create table history (
    id bigint generated always as identity primary key,
    domain text collate "C" not null,
    account text not null,
    command_id text not null,
    command text not null,
    source text not null,
    outcome text not null,
    codes text[] not null,
    -- In full, JSON as text; those of a domain go with its pair at a disable.
    findings text not null,
    -- What it changed, without pairs: services/config/replay.py. Null where nothing was.
    change jsonb,
    revision bigint,
    received_at timestamptz not null,
    settled_at timestamptz not null,
    unique (domain, command_id)
);
create index history_domain on history (domain, id desc);
create index history_findings on history (domain) where findings <> '[]' or change ? 'certificate';

-- The PostgreSQL cluster in which the sequence was last known to be past every revision that the fleet has.
create table revision_home (
    only_row boolean primary key default true check (only_row),
    system_identifier text not null,
    timeline text not null
);

-- migrate:down
drop table revision_home;
drop table history;
drop table pairs;
drop table domains;
drop sequence revision;
