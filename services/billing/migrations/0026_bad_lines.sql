-- migrate:up

-- Lines of the log that no node could read: requests that are in no count.
alter table node_logs add column bad_lines bigint not null default 0;
update node_logs l set bad_lines = a.bad_lines from (
    select node, log, sum(bad_lines) as bad_lines from batch_archive group by 1, 2
) a where a.node = l.node and a.log = l.log;

create or replace view finance.logs as
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.last_seen,
    (select count(*) from held_batches h where h.node = l.node and h.log = l.log) as held,
    greatest(l.read_to, coalesce(l.final_length, 0)) - l.stored_to as missing, l.bad_lines
from node_logs l;
comment on view finance.logs is
    'How far each log of each node is in. missing: bytes that are known of and not in yet; bad_lines: lines that could '
    'not be read, whose requests are in no count.';

-- migrate:down
alter table node_logs drop column bad_lines cascade;
