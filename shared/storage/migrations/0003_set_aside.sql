-- migrate:up
-- What no stream will ever take: it must not hold back what comes after it.
alter table outbox add column set_aside_at timestamptz;
drop index outbox_unsent;
create index outbox_unsent on outbox (id) where sent_at is null and set_aside_at is null;
create index outbox_set_aside on outbox (set_aside_at) where set_aside_at is not null;

-- migrate:down
drop index outbox_set_aside;
drop index outbox_unsent;
create index outbox_unsent on outbox (id) where sent_at is null;
alter table outbox drop column set_aside_at;
