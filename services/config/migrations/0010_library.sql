-- migrate:up
-- Where a domain's certificate came from: uploaded for it, or a copy of the account's library entry ``entry``.
alter table pairs
    add column source text not null default 'custom' check (source in ('custom', 'stored')),
    add column name text collate "C" not null default '',
    add column entry text,
    add column trust text not null default 'public';
create index pairs_entry on pairs (entry, domain) where position = 0 and entry is not null;
create index pairs_name on pairs (name) where position = 0 and source = 'custom';

-- The certificate library of an account. ``key``: under which its commands wait their turn; ``entry``: the id of this
-- entry, as a name can be given again after a deletion; null until the first certificate is accepted.
create table certificates (
    key text collate "C" primary key,
    account text collate "C" not null,
    name text collate "C" not null,
    entry text,
    trust text not null,
    version integer not null,
    submission_id text,
    stored_at timestamptz,
    pending_id text,
    pending_request text,
    pending_cause jsonb,
    pending_trust text
);
create index certificates_account on certificates (account, name);
create unique index certificates_pending on certificates (pending_id) where pending_id is not null;

create table certificate_pairs (
    key text collate "C" not null references certificates (key) on delete cascade,
    position integer not null,
    pair_id text collate "C" not null,
    epoch integer not null,
    pair text not null,
    primary key (key, position)
);
create index certificate_pairs_epoch on certificate_pairs (epoch, key);

-- What a library command still has to do on a domain: a deployment that waits for its turn there (``entry`` null: there
-- was no such certificate), or a domain that follows a replaced entry.
create table deployments (
    command_id text not null,
    domain text collate "C" not null,
    key text collate "C" not null,
    entry text,
    follow boolean not null,
    cause jsonb not null,
    made_at timestamptz not null default now(),
    primary key (command_id, domain)
);
create index deployments_key on deployments (key);
create index deployments_follow on deployments (made_at) where follow;

-- An account's own roots (rule D9): public certificates, in PEM.
create table roots (
    account text collate "C" primary key,
    roots jsonb not null,
    set_at timestamptz not null
);

-- Library commands stand under no domain ('').
alter table history add column certificate text;
create index history_command on history (command_id);
create index history_account on history (account, id desc) where domain = '';

-- migrate:down
drop index history_account;
drop index history_command;
alter table history drop column certificate;
drop table roots;
drop table deployments;
drop table certificate_pairs;
drop table certificates;
drop index pairs_name;
drop index pairs_entry;
alter table pairs drop column source, drop column name, drop column entry, drop column trust;
