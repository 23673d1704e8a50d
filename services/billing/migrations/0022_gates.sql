-- migrate:up

-- Nothing is ever in them: they are there to be locked. An advisory lock could be taken by whoever may log in, the
-- read-only finance role too; these only by whoever may write to them.
create table owners_gate ();
comment on table owners_gate is 'Shared: owners, nodes and prices stay as they are. Exclusive: they change.';
create table catalogue_gate ();
comment on table catalogue_gate is 'Exclusive: partitions come and go, rights are granted: one at a time.';

-- migrate:down
drop table owners_gate, catalogue_gate;
