-- migrate:up

-- Which days of single events are added up in request_days: blocks of the day's partition so far. From done on the audit
-- takes the day from there, whether the partition is gone yet or not.
create table request_days_kept (
    day integer primary key,
    blocks bigint not null default 0,
    done boolean not null default false
);

-- migrate:down
drop table request_days_kept;
