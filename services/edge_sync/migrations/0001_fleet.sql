-- migrate:up
create table nodes (
    node text primary key,
    public_key text not null,
    nkey text not null,
    labels jsonb not null,
    -- the Signed enrolment as the operator sent it; none once the node is removed
    enrolment bytea,
    issued_at timestamptz not null,
    enrolled_at timestamptz not null,
    drained boolean not null default false,
    removed boolean not null default false,
    last_seen timestamptz,
    sequence bigint
);

create table epochs (
    epoch integer primary key,
    public_key text not null,
    -- the Signed EpochKey of the operator
    key bytea not null,
    issued_at timestamptz not null,
    started_at timestamptz not null,
    -- the Signed SealingEpoch of edge_sync, once pairs may be sealed to it
    sealing bytea
);

create table trust (
    serial integer primary key,
    document bytea not null,
    issued_at timestamptz not null
);

-- Never a fingerprint or a name of a certificate: a disabled domain leaves none (design, "Disable").
create table convergences (
    domain text not null,
    revision bigint not null,
    account text not null,
    command_id text not null,
    submitted_at timestamptz not null,
    opened_at timestamptz not null default clock_timestamp(),
    lagging_at timestamptz,
    converged_at timestamptz,
    nodes integer,
    p50_ms double precision,
    p99_ms double precision,
    slowest text,
    slowest_ms double precision,
    primary key (domain, revision)
);
create index convergences_pending on convergences (domain) where converged_at is null;
create index convergences_revision on convergences (revision);
create index convergences_age on convergences (converged_at) where converged_at is not null;

-- migrate:down
drop table convergences;
drop table trust;
drop table epochs;
drop table nodes;
