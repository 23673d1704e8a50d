-- migrate:up

-- Messages of usage and ownership that could not be handled for a reason of our own: each once, tried again until it
-- can be. reply: where the stream delivered it, which says its place in it. node and so on: of a usage batch.
create table parked_messages (
    durable text not null,
    digest bytea not null,
    subject text not null,
    reply text not null,
    headers jsonb not null,
    body bytea not null,
    reason text not null,
    node text collate "C",
    log text collate "C",
    start_at bigint,
    end_at bigint,
    tries integer not null default 1,
    first_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    primary key (durable, digest)
);
create index parked_messages_log on parked_messages (node, log);

create view finance.parked as
select node, log, start_at, end_at, durable, reason, tries, first_at, last_at from parked_messages;
comment on view finance.parked is
    'Messages that could not be counted yet for a fault of the platform: they are kept and tried again. node, log and '
    'bytes of a usage batch; without them a single request or a change of owner.';

-- migrate:down
drop view finance.parked;
drop table parked_messages;
