-- migrate:up
-- Which notice of a certificate's end was given: once each. ``certificate``: the submission that it came with.
create table expiry_notices (
    domain text collate "C" not null,
    certificate text not null,
    served_until timestamptz not null,
    days integer not null,
    sent_at timestamptz not null,
    primary key (domain, certificate, days)
);
create index expiry_notices_age on expiry_notices (served_until);

-- migrate:down
drop table expiry_notices;
