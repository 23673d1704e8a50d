-- migrate:up
-- What billing says about an account (rule E7). ``crossing``: billing's number of the last word; ``settled``: the
-- balance is above 0; ``cause`` and ``caused_by``: id and subject of the message that suspended or resumed it.
create table accounts (
    account text collate "C" primary key,
    resumption text not null default 'automatic' check (resumption in ('automatic', 'by_hand')),
    suspended boolean not null default false,
    settled boolean not null default true,
    since timestamptz,
    crossing bigint not null default 0,
    cause text,
    caused_by text,
    caused_at timestamptz,
    source text not null default ''
);
create index accounts_suspended on accounts (account) where suspended;
create index domains_suspended on domains (account, name) where suspended and not removed;
create index domains_unsuspended on domains (account, name) where not suspended and not removed;

-- migrate:down
drop index domains_unsuspended;
drop index domains_suspended;
drop table accounts;
