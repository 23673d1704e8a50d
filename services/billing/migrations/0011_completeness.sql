-- migrate:up

-- Single events by the day of their time: the same event is always in the same partition, and a day that is past the
-- late window goes as a whole. Partitions are made before they are needed (services/billing/store/partitions.py).
alter table requests rename to requests_before;
alter index requests_pkey rename to requests_before_pkey;
create table requests (
    source text collate "C" not null,
    id text collate "C" not null,
    day integer not null,
    at bigint not null,
    domain text not null,
    node text not null,
    bytes bigint not null,
    status smallint not null,
    received_at timestamptz not null,
    primary key (source, id, day)
) partition by list (day);
comment on column requests.day is 'Unix time in days, UTC';
comment on column requests.at is 'Unix time in microseconds';
do $$
declare d integer;
begin
    for d in select distinct minute / 1440 from requests_before loop
        execute format('create table requests_%s partition of requests for values in (%s)', d, d);
    end loop;
end $$;
insert into requests select source, id, minute / 1440, minute * 60000000::bigint, domain, node, bytes, 200, received_at
from requests_before;
drop table requests_before;

-- What a day's events added up to, kept for the audit when the day is dropped.
create table request_days (
    domain text collate "C" not null,
    minute integer not null,
    node text collate "C" not null,
    requests bigint not null,
    bytes bigint not null,
    primary key (domain, minute, node)
);
create index request_days_time on request_days (minute);

-- Which minutes an archived batch speaks of: an audit reads the cells of those that matter to it only.
alter table batch_archive add column first_minute integer, add column last_minute integer;

alter table node_logs add column first_seen timestamptz, add column complete_at timestamptz;
update node_logs set first_seen = last_seen, complete_at = last_seen;
alter table node_logs alter column first_seen set not null, alter column complete_at set not null;
create index node_logs_behind on node_logs (node, log)
    where stored_to < read_to or stored_to < final_length;

-- body: of one that was refused after it had waited, until its dead letter is written.
alter table refused_batches add column body bytea;
create index refused_batches_unburied on refused_batches (node) where not buried and body is not null;

-- migrate:down
drop table request_days;
