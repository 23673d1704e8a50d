"""Which bytes of the nodes' logs are not in (rule E9)."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Final

from services.billing.ranges import missing
from services.billing.store import Reader
from shared.contracts.audit import Gap, GapsPage, QueryGaps

SILENT_AFTER: Final = timedelta(minutes=5)
"""Nodes send an empty batch each 10 s."""
_BEHIND: Final = """
select l.node, l.log, l.stored_to, l.read_to, l.final_length, l.complete_at, l.last_seen from node_logs l
where (l.stored_to < l.read_to or l.stored_to < l.final_length
        or exists (select from held_batches h where h.node = l.node and h.log = l.log))
    and (l.node, l.log) > ($1, $2) and ($3::text is null or l.node = $3)
    and ($4::timestamptz is null or l.last_seen >= $4) and ($5::timestamptz is null or l.first_seen < $5)
order by l.node, l.log limit $6
"""
_SILENT: Final = """
select n.node, l.log, l.stored_to, l.complete_at, l.last_seen from nodes n cross join lateral (
    select * from node_logs where node = n.node order by last_seen desc limit 1
) l where n.state not in ('removed', 'drained') and l.final_length is null and l.last_seen < $1
    and ($2::text is null or n.node = $2) order by n.node limit 500
"""


async def page(connection: Reader, question: QueryGaps, now: datetime) -> GapsPage:
    """In order of (node, log); the last page ends with the nodes that are silent."""
    node, _, log = question.after.partition("/")
    rows = await connection.fetch(
        _BEHIND, node, log, question.node, question.start, question.end, question.limit
    )
    held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for row in await connection.fetch(
        "select node, log, start_at, end_at from held_batches where (node, log) in"
        " (select * from unnest($1::text[], $2::text[]))", [r["node"] for r in rows], [r["log"] for r in rows],
    ):
        held[row["node"], row["log"]].append((row["start_at"], row["end_at"]))
    gaps: list[Gap] = []
    for row in rows:
        gaps += _gaps(dict(row), held[row["node"], row["log"]])
        if len(gaps) >= question.limit:
            return GapsPage(gaps=gaps[:1000], next=f"{row['node']}/{row['log']}")
    if len(rows) == question.limit:
        return GapsPage(gaps=gaps, next=f"{rows[-1]['node']}/{rows[-1]['log']}")
    silent = [
        Gap(node=r["node"], log=r["log"], start=r["stored_to"], end=r["stored_to"], kind="silent",
            since=r["complete_at"], last_seen=r["last_seen"])
        for r in await connection.fetch(_SILENT, now - SILENT_AFTER, question.node)
    ]
    return GapsPage(gaps=gaps + silent, next=None)


def _gaps(row: dict[str, object], held: list[tuple[int, int]]) -> list[Gap]:
    stored, final = row["stored_to"], row["final_length"]
    known = [row["read_to"], final or 0, *(end for _, end in held)]
    return [
        Gap.model_validate({
            "node": row["node"], "log": row["log"], "start": start, "end": end,
            "kind": "short" if end == final else "missing", "since": row["complete_at"], "last_seen": row["last_seen"],
        })
        for start, end in missing(stored, max(known), held)  # type: ignore[arg-type,type-var]
    ]
