-- migrate:up

-- How far back usage is whole, in hours of Unix time: older minutes, and older hours, were forgotten. Minutes that
-- nobody owns stay for ever, for an owner may still be told of.
create table usage_kept (
    one boolean primary key default true check (one),
    minutes_from integer not null,
    hours_from integer not null
);
insert into usage_kept (minutes_from, hours_from) values (0, 0);

-- migrate:down
drop table usage_kept;
