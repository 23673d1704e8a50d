"""Which bytes of the nodes' logs are not in (rule E9)."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Final

from services.billing.domain.ranges import missing_ranges
from services.billing.store import Reader
from shared.contracts.audit import Gap, GapsPage, QueryGaps

SILENT_AFTER: Final = timedelta(minutes=5)
"""Nodes send an empty batch each 10 s."""
_BEHIND: Final = """
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.complete_at, l.last_seen
  from node_logs l
where (l.stored_to < l.read_to or l.stored_to < l.final_length
        or exists (select from held_batches h where h.node = l.node and h.log = l.log))
    and (l.node, l.log) > ($1, $2) and ($3::text is null or l.node = $3)
    and ($4::timestamptz is null or l.last_seen >= $4) and ($5::timestamptz is null
    or l.first_seen < $5)
order by l.node, l.log limit $6
"""
_CAME: Final = """
select c.* from unnest($1::text[], $2::text[]) as l (node, log) join (
    select node, log, start_at, end_at from held_batches
    union all select node, log, start_at, end_at from parked_messages
) c using (node, log)
"""
_NODES: Final = """
select n.node, l.log, coalesce(l.stored_to, 0) as start_at, coalesce(l.stored_to, 0) as end_at,
    case when l.log is null then 'unheard' when n.state in ('removed', 'drained') then 'unfinished'
      else 'silent' end
    as kind, coalesce(l.complete_at, n.at) as since, coalesce(l.last_seen, n.at) as last_seen
from nodes n left join lateral (select * from node_logs where node = n.node
order by last_seen desc limit 1) l on true
where l.final_length is null and coalesce(l.last_seen, n.at) < $1 and ($2::text is null
or n.node = $2)
    and case when n.state in ('removed', 'drained') then l.log is not null
    and ($3::timestamptz is null or
    l.last_seen >= $3) else true end
order by n.node limit 500
"""
_STRANGERS: Final = """
select node, log, min(start_at) as start_at, max(end_at) as end_at, 'unknown_node' as kind,
  min(held_at) as since,
    max(held_at) as last_seen
from held_batches h where not exists (select from nodes n where n.node = h.node)
and ($1::text is null or node = $1)
group by node, log order by node, log limit 500
"""
_PARKED: Final = """
select node, log, start_at, end_at, 'parked' as kind, first_at as since, last_at as last_seen
from parked_messages where node is not null and ($1::text is null or node = $1)
  order by node, log, start_at limit 500
"""


async def page_gaps(connection: Reader, question: QueryGaps, now: datetime) -> GapsPage:
    """In order of (node, log); the last page ends with what waits, and with the nodes that do not
    speak."""
    node, _, log = question.after.partition("/")
    rows = await connection.fetch(
        _BEHIND, node, log, question.node, question.start, question.end, question.limit
    )
    held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for row in await connection.fetch(_CAME, [r["node"] for r in rows], [r["log"] for r in rows]):
        held[row["node"], row["log"]].append((row["start_at"], row["end_at"]))
    gaps: list[Gap] = []
    for row in rows:
        gaps += _log_gaps(dict(row), held[row["node"], row["log"]])
        if len(gaps) >= question.limit:
            return GapsPage(gaps=gaps[:1000], next=f"{row['node']}/{row['log']}")
    if len(rows) == question.limit:
        return GapsPage(gaps=gaps, next=f"{rows[-1]['node']}/{rows[-1]['log']}")
    for row in (
        *await connection.fetch(_PARKED, question.node),
        *await connection.fetch(_STRANGERS, question.node),
        *await connection.fetch(_NODES, now - SILENT_AFTER, question.node, question.start),
    ):
        gaps.append(Gap(**{name.removesuffix("_at"): value for name, value in row.items()}))
    events = await connection.fetchval("select count(*) from parked_messages where node is null")
    return GapsPage(gaps=gaps, next=None, parked_events=events)


def _log_gaps(row: dict[str, object], held: list[tuple[int, int]]) -> list[Gap]:
    stored, final = row["stored_to"], row["final_length"]
    known = [row["read_to"], final or 0, *(end for _, end in held)]
    return [
        Gap.model_validate(
            {
                "node": row["node"],
                "log": row["log"],
                "start": start,
                "end": end,
                "kind": "short" if end == final else "missing",
                "since": row["complete_at"],
                "last_seen": row["last_seen"],
            }
        )
        for start, end in missing_ranges(stored, max(known), held)  # type: ignore[arg-type,type-var]
    ]
