-- migrate:up
-- Which notice of a certificate's end was given: once each. ``certificate``: the id of the submission that it came with,
-- and nothing else of it, so that a row may outlive a disable: a stored certificate can come back.
create table expiry_notices (
    domain text collate "C" not null,
    certificate text not null,
    days integer not null,
    sent_at timestamptz not null,
    primary key (domain, certificate, days)
);
create index expiry_notices_age on expiry_notices (sent_at);

-- migrate:down
drop table expiry_notices;
