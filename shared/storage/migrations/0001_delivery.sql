-- migrate:up
create table outbox (
    id bigint generated always as identity primary key,
    message_id text not null,
    subject text not null,
    headers jsonb not null,
    body bytea,
    carries_pair boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    sent_at timestamptz
);
create index outbox_unsent on outbox (id) where sent_at is null;
create index outbox_sent on outbox (sent_at) where sent_at is not null;
create index outbox_message on outbox (message_id);

create table leases (
    name text primary key,
    holder text not null,
    fencing bigint not null default 1,
    expires_at timestamptz not null
);

-- migrate:down
drop table leases;
drop table outbox;
