"""Domain facts and nodes, and the lock that keeps them still while usage is attributed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from services.billing.domain.ownership import OwnershipEvent
from shared.storage.pool import Connection


async def lock_owners_shared(connection: Connection) -> None:
    """Owners and nodes stay as they are until the end of the transaction; many may hold them at
    once."""
    await connection.execute("lock table owners_gate in share mode")


async def lock_owners_exclusive(connection: Connection) -> None:
    """Waits until nobody holds the owners, and keeps them out until the end of the transaction."""
    await connection.execute("lock table owners_gate in exclusive mode")


async def load_ownership_events(
    connection: Connection, domains: Sequence[str]
) -> dict[str, list[OwnershipEvent]]:
    rows = await connection.fetch(
        "select domain, revision, kind, account, at from domain_facts where domain = "
        "any($1::text[])",
        domains,
    )
    found: dict[str, list[OwnershipEvent]] = defaultdict(list)
    for row in rows:
        found[row["domain"]].append(
            OwnershipEvent(row["revision"], row["kind"], row["account"], row["at"])
        )
    return found


async def load_newest_version(connection: Connection) -> int:
    return int(await connection.fetchval("select coalesce(max(version), 0) from domain_facts"))


async def load_changes(connection: Connection, version: int) -> tuple[int, int, list[str]]:
    """The newest version, the serial of the price book, and the domains with facts newer than
    ``version``."""
    rows = await connection.fetch(
        "select domain, version from domain_facts where version > $1"
        " union all select null, coalesce(max(serial), 0) from price_books",
        version,
    )
    serial = next(row["version"] for row in rows if row["domain"] is None)
    facts = [row for row in rows if row["domain"] is not None]
    return (
        max((row["version"] for row in facts), default=version),
        serial,
        [row["domain"] for row in facts],
    )


async def add_ownership_events(
    connection: Connection, facts: Sequence[tuple[str, OwnershipEvent]]
) -> set[str]:
    """The domains with a fact that is new."""
    if not facts:
        return set()
    rows = await connection.fetch(
        "insert into domain_facts (domain, revision, kind, account, at) select * from "
        "unnest($1::text[],"
        " $2::bigint[], $3::text[], $4::text[], $5::timestamptz[]) on conflict do nothing "
        "returning domain",
        [domain for domain, _ in facts],
        *(list(column) for column in zip(*(fact for _, fact in facts), strict=True)),
    )
    return {row["domain"] for row in rows}


async def add_nodes(connection: Connection, nodes: Sequence[tuple[str, str, datetime]]) -> None:
    """(node, state, at): the latest ``at`` wins, in whatever order the events come. Labels are no
    state."""
    await connection.executemany(
        "insert into nodes (node, state, at) values ($1, $2, $3) on conflict (node) do update "
        "set at = excluded.at,"
        " state = case when excluded.state = 'labelled' then nodes.state else excluded.state end"
        " where nodes.at <= excluded.at",
        nodes,
    )


async def find_known_nodes(connection: Connection, nodes: Iterable[str]) -> set[str]:
    rows = await connection.fetch(
        "select node from nodes where node = any($1::text[])", list(nodes)
    )
    return {row["node"] for row in rows}
