-- migrate:up
-- Up to where the sequences of one incarnation (creation time) of a stream are settled without a gap.
create table inbox_streams (
    stream text not null,
    incarnation timestamptz not null,
    settled_to bigint not null default 0,
    primary key (stream, incarnation)
);

-- message_id is null where a sequence is settled without effect (poison, a duplicate).
create table inbox (
    stream text not null,
    incarnation timestamptz not null,
    sequence bigint not null,
    message_id text,
    content_hash bytea,
    subject text not null,
    source text not null default '',
    traceparent text,
    body bytea,
    stream_time timestamptz not null,
    stored_at timestamptz not null default clock_timestamp(),
    primary key (stream, incarnation, sequence)
);
create unique index inbox_message on inbox (message_id);
create index inbox_age on inbox (stored_at);

-- stored: a lower sequence is not settled yet; ready: may run; held: waits for what is pending under its key.
create table inbox_targets (
    stream text not null,
    incarnation timestamptz not null,
    sequence bigint not null,
    key text collate "C" not null,
    state text not null check (state in ('stored', 'ready', 'held')),
    primary key (stream, incarnation, sequence, key)
);
create index inbox_targets_key on inbox_targets (key, incarnation, sequence);
create index inbox_targets_ready on inbox_targets (key) where state = 'ready';
create index inbox_targets_stored on inbox_targets (stream, incarnation, sequence) where state = 'stored';

-- Locked by whoever runs what waits under the key.
create table inbox_keys (key text collate "C" primary key);

-- migrate:down
drop table inbox_keys;
drop table inbox_targets;
drop table inbox;
drop table inbox_streams;
