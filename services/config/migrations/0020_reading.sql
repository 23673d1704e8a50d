-- migrate:up
-- When the first pair of the live certificate expires; null without HTTPS.
alter table domains add column served_until timestamptz;
update domains d set served_until = (
    select min((p.pair::json ->> 'not_after')::timestamptz) from pairs p where p.domain = d.name and p.slot = 'live'
);

-- SHA-256 of the leaf: which domains a certificate serves.
alter table pairs add column fingerprint text;
update pairs set fingerprint = pair::json ->> 'leaf_fingerprint';
alter table pairs alter column fingerprint set not null;
create index pairs_fingerprint on pairs (fingerprint, domain) where slot = 'live';

-- Lists filter on the index alone: however few rows fit, a page of 100,000 domains stays a matter of milliseconds.
drop index domains_account;
create index domains_account on domains (account, name)
    include (service_type, suspended, served_until) where not removed;
create index domains_listed on domains (name)
    include (account, service_type, suspended, served_until) where not removed;
create index domains_expiry on domains (served_until, name)
    include (account, service_type, suspended) where not removed and served_until is not null;
create index domains_account_expiry on domains (account, served_until, name)
    include (service_type, suspended) where not removed and served_until is not null;

-- migrate:down
drop index domains_account_expiry;
drop index domains_expiry;
drop index domains_listed;
drop index domains_account;
create index domains_account on domains (account, name);
drop index pairs_fingerprint;
alter table pairs drop column fingerprint;
alter table domains drop column served_until;
