"""Ownership events and nodes, and the lock that keeps them unchanged while usage is attributed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.billing.domain.ownership import OwnershipEvent
from services.billing.store.columns import RowColumns
from shared.storage.pool import Connection

_EVENTS: Final = RowColumns(
    domain="text", revision="bigint", kind="text", account="text", at="timestamptz"
)
_ADD_EVENTS: Final = f"""
insert into domain_facts ({_EVENTS.names}) select * from {_EVENTS.unnest()}
on conflict do nothing returning domain
"""
_CHANGES: Final = """
select domain, version from domain_facts where version > $1
union all select null, coalesce(max(serial), 0) from price_books
"""
_ADD_NODE: Final = """
insert into nodes (node, state, at) values ($1, $2, $3)
on conflict (node) do update set at = excluded.at,
    state = case when excluded.state = 'labelled' then nodes.state else excluded.state end
where nodes.at <= excluded.at
"""


class ReferenceChanges(NamedTuple):
    """The changes since a version. ``version``: the newest; ``serial``: of the price book."""

    version: int
    serial: int
    domains: list[str]


class NodeState(NamedTuple):
    """The last change of a node."""

    node: str
    state: str
    at: datetime


# The lock is an empty table. Any login may take an advisory lock, the read-only finance role too;
# only a role that may write to the table can lock it.
async def lock_owners_shared(connection: Connection) -> None:
    """Keep owners, nodes and prices unchanged until the end of the transaction. Many may hold this
    lock at once."""
    await connection.execute("lock table owners_gate in share mode")


async def lock_owners_exclusive(connection: Connection) -> None:
    """Wait until no transaction holds the owners, and keep others out until the end of this one."""
    await connection.execute("lock table owners_gate in exclusive mode")


async def load_ownership_events(
    connection: Connection, domains: Sequence[str]
) -> dict[str, list[OwnershipEvent]]:
    """Return the ownership events of each domain. A domain without any has no entry."""
    rows = await connection.fetch(
        f"select {_EVENTS.names} from domain_facts where domain = any($1::text[])", domains
    )
    events: dict[str, list[OwnershipEvent]] = defaultdict(list)
    for row in rows:
        event = OwnershipEvent(row["revision"], row["kind"], row["account"], row["at"])
        events[row["domain"]].append(event)
    return events


async def load_newest_version(connection: Connection) -> int:
    """Return the newest version of the ownership events, 0 without any."""
    return int(await connection.fetchval("select coalesce(max(version), 0) from domain_facts"))


async def load_changes(connection: Connection, version: int) -> ReferenceChanges:
    """Return what is newer than ``version``: one query, for it runs in every transaction."""
    newest = version
    serial = 0
    domains = []
    for row in await connection.fetch(_CHANGES, version):
        if row["domain"] is None:
            serial = row["version"]
        else:
            newest = max(newest, row["version"])
            domains.append(row["domain"])
    return ReferenceChanges(newest, serial, domains)


async def add_ownership_events(
    connection: Connection, events: Sequence[tuple[str, OwnershipEvent]]
) -> set[str]:
    """Add events by domain; return the domains with an event that is new."""
    if not events:
        return set()
    rows = [(domain, *event) for domain, event in events]
    added = await connection.fetch(_ADD_EVENTS, *_EVENTS.from_tuples(rows))
    return {row["domain"] for row in added}


async def add_nodes(connection: Connection, nodes: Sequence[NodeState]) -> None:
    """Store node states. The latest ``at`` wins: events may come in any order.

    A change of labels keeps the state."""
    await connection.executemany(_ADD_NODE, nodes)


async def find_known_nodes(connection: Connection, nodes: Iterable[str]) -> set[str]:
    """Return those of ``nodes`` that were ever enrolled."""
    rows = await connection.fetch(
        "select node from nodes where node = any($1::text[])", list(nodes)
    )
    return {row["node"] for row in rows}
