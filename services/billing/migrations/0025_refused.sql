-- migrate:up

create view finance.refused as
select node, log, start_at, end_at, reason, times, first_at, last_at from refused_batches;
comment on view finance.refused is
    'Batches of nodes that were not counted, each once: no batch at all, a range that overlaps what was counted, or one '
    'that was counted with another content (conflict).';

-- migrate:down
drop view finance.refused;
