-- migrate:up
-- Of the live certificate, null without HTTPS: when its first pair expires, and where it comes from; and whether a pair
-- of it does not cover the domain.
alter table domains add column served_until timestamptz, add column served_source text,
    add column mismatched boolean not null default false;
update domains d set served_until = p.until, served_source = 'custom' from (
    select domain, min((pair::json ->> 'not_after')::timestamptz) as until from pairs where slot = 'live' group by domain
) p where p.domain = d.name;

-- SHA-256 of the leaf: which domains a certificate serves.
alter table pairs add column fingerprint text;
update pairs set fingerprint = pair::json ->> 'leaf_fingerprint';
alter table pairs alter column fingerprint set not null;
-- What lists show of a pair: all but its chain, key and attestation (-> and not ->>: a subject may hold U+0000).
alter table pairs add column facts text;
update pairs set facts = json_build_object(
    'leaf_fingerprint', pair::json -> 'leaf_fingerprint', 'subject', pair::json -> 'subject', 'sans',
    pair::json -> 'sans', 'issuer', pair::json -> 'issuer', 'key_type', pair::json -> 'key_type', 'key_bits',
    pair::json -> 'key_bits', 'not_before', pair::json -> 'not_before', 'not_after', pair::json -> 'not_after'
)::text;
alter table pairs alter column facts set not null;
create index pairs_fingerprint on pairs (fingerprint, domain) where slot = 'live';

-- Lists filter on the index alone: however few rows fit, a page of 100,000 domains stays a matter of milliseconds.
drop index domains_account;
create index domains_account on domains (account, name)
    include (service_type, suspended, served_until, served_source, mismatched) where not removed;
create index domains_listed on domains (name)
    include (account, service_type, suspended, served_until, served_source, mismatched) where not removed;
drop index domains_parent;
create index domains_parent on domains (parent, name)
    include (account, service_type, suspended, served_until, served_source, mismatched) where not removed;
create index domains_expiry on domains (served_until, name)
    include (account, service_type, suspended, served_source, mismatched) where not removed and served_until is not null;
create index domains_account_expiry on domains (account, served_until, name)
    include (service_type, suspended, served_source, mismatched) where not removed and served_until is not null;

-- migrate:down
drop index domains_account_expiry;
drop index domains_expiry;
drop index domains_parent;
create index domains_parent on domains (parent) where not removed;
drop index domains_listed;
drop index domains_account;
create index domains_account on domains (account, name);
drop index pairs_fingerprint;
alter table pairs drop column fingerprint, drop column facts;
alter table domains drop column served_until, drop column served_source, drop column mismatched;
