"""The bytes of the nodes' logs that are not in (rule E9)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.billing.domain.ranges import missing_ranges
from services.billing.store import Reader
from services.billing.store.columns import RowColumns
from shared.contracts.audit import Gap, GapsPage, QueryGaps

SILENT_AFTER: Final = timedelta(minutes=5)
"""Nodes send an empty batch each 10 s."""
_MAX_GAPS: Final = 1000
_LOGS: Final = RowColumns(node="text", log="text")
_BEHIND: Final = """
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.complete_at, l.last_seen
from node_logs l
where (l.stored_to < l.read_to or l.stored_to < l.final_length
        or exists (select from held_batches h where h.node = l.node and h.log = l.log))
    and (l.node, l.log) > ($1, $2) and ($3::text is null or l.node = $3)
    and ($4::timestamptz is null or l.last_seen >= $4)
    and ($5::timestamptz is null or l.first_seen < $5)
order by l.node, l.log limit $6
"""
_ARRIVED: Final = f"""
select c.* from {_LOGS.unnest("l")} join (
    select node, log, start_at, end_at from held_batches
    union all select node, log, start_at, end_at from parked_messages
) c using (node, log)
"""
_SILENT_NODES: Final = """
select n.node, l.log, coalesce(l.stored_to, 0) as start_at, coalesce(l.stored_to, 0) as end_at,
    case when l.log is null then 'unheard'
        when n.state in ('removed', 'drained') then 'unfinished' else 'silent' end as kind,
    coalesce(l.complete_at, n.at) as since, coalesce(l.last_seen, n.at) as last_seen
from nodes n left join lateral (
    select * from node_logs where node = n.node order by last_seen desc limit 1
) l on true
where l.final_length is null and coalesce(l.last_seen, n.at) < $1
    and ($2::text is null or n.node = $2)
    and case when n.state in ('removed', 'drained')
        then l.log is not null and ($3::timestamptz is null or l.last_seen >= $3)
        else true end
order by n.node limit 500
"""
_UNKNOWN_NODES: Final = """
select node, log, min(start_at) as start_at, max(end_at) as end_at, 'unknown_node' as kind,
    min(held_at) as since, max(held_at) as last_seen
from held_batches h
where not exists (select from nodes n where n.node = h.node) and ($1::text is null or node = $1)
group by node, log order by node, log limit 500
"""
_QUARANTINED: Final = """
select node, log, start_at, end_at, 'parked' as kind, first_at as since, last_at as last_seen
from parked_messages where node is not null and ($1::text is null or node = $1)
order by node, log, start_at limit 500
"""


async def page_gaps(connection: Reader, question: QueryGaps, now: datetime) -> GapsPage:
    """Return a page of gaps in order of (node, log).

    The last page ends with the messages in quarantine, the batches of unknown nodes, and the nodes
    that are silent."""
    node, _, log = question.after.partition("/")
    rows = await connection.fetch(
        _BEHIND, node, log, question.node, question.start, question.end, question.limit
    )
    arrived = await _load_arrived(connection, rows)
    gaps: list[Gap] = []
    for row in rows:
        gaps += _log_gaps(row, arrived[row["node"], row["log"]])
        if len(gaps) >= question.limit:
            return GapsPage(gaps=gaps[:_MAX_GAPS], next=f"{row['node']}/{row['log']}")
    if len(rows) == question.limit:
        return GapsPage(gaps=gaps, next=f"{rows[-1]['node']}/{rows[-1]['log']}")
    # Only on the last page, for these are not in the order of (node, log).
    gaps += await _other_gaps(connection, question, now)
    events = await connection.fetchval("select count(*) from parked_messages where node is null")
    return GapsPage(gaps=gaps, next=None, parked_events=events)


async def _load_arrived(
    connection: Reader, logs: Sequence[Any]
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Return the ranges that wait or are in quarantine, by node and log."""
    keys = [(row["node"], row["log"]) for row in logs]
    arrived: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for row in await connection.fetch(_ARRIVED, *_LOGS.from_tuples(keys)):
        arrived[row["node"], row["log"]].append((row["start_at"], row["end_at"]))
    return arrived


async def _other_gaps(connection: Reader, question: QueryGaps, now: datetime) -> list[Gap]:
    rows = await connection.fetch(_QUARANTINED, question.node)
    rows += await connection.fetch(_UNKNOWN_NODES, question.node)
    rows += await connection.fetch(_SILENT_NODES, now - SILENT_AFTER, question.node, question.start)
    gaps = []
    for row in rows:
        gap = Gap(
            node=row["node"],
            log=row["log"],
            start=row["start_at"],
            end=row["end_at"],
            kind=row["kind"],
            since=row["since"],
            last_seen=row["last_seen"],
        )
        gaps.append(gap)
    return gaps


def _log_gaps(row: Any, arrived: list[tuple[int, int]]) -> list[Gap]:
    final_length = row["final_length"]
    known_to = max(row["read_to"], final_length or 0)
    for _, end in arrived:
        known_to = max(known_to, end)
    gaps = []
    for start, end in missing_ranges(row["stored_to"], known_to, arrived):
        gap = Gap(
            node=row["node"],
            log=row["log"],
            start=start,
            end=end,
            kind="short" if end == final_length else "missing",
            since=row["complete_at"],
            last_seen=row["last_seen"],
        )
        gaps.append(gap)
    return gaps
