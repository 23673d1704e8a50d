"""The accounts that hold the wildcard above a name, or the hosts under it (rule A2).

A family is a wildcard and the hosts that it covers. Its lock is held until the transaction ends, so
that two registrations in one family see each other. Every replica locks families in order of their
name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.config.domain import names
from shared.storage.pool import Connection

_LOCK = """
select pg_advisory_xact_lock(hashtextextended('family ' || f, 0)) from unnest($1::text[]) as f
"""
_WILDCARDS = """
select parent, account from domains where name = any($1::text[]) and not removed
"""
_HOSTS = """
select parent, array_agg(distinct account) as accounts from domains
where parent = any($1::text[]) and not removed and name <> '*.' || parent group by parent
"""


@dataclass(frozen=True)
class FamilyHolders:
    """Accounts by parent name: of the wildcard, and of the hosts under it."""

    wildcards: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def holders_beside(self, name: str) -> frozenset[str]:
        """Return the accounts that hold what ``name`` would share a family with."""
        parent = names.parent_name(name)
        if name == names.wildcard_of(parent):
            return self.hosts.get(parent, frozenset())
        if parent in self.wildcards:
            return frozenset({self.wildcards[parent]})
        return frozenset()


async def lock_families(connection: Connection, registered: Iterable[str]) -> FamilyHolders:
    """Lock the families of names that are to be registered, and return the holders."""
    parents = set()
    wildcard_parents = []
    for name in registered:
        parent = names.parent_name(name)
        parents.add(parent)
        if name == names.wildcard_of(parent):
            wildcard_parents.append(parent)
    if not parents:
        return FamilyHolders()
    # The hosts of a family matter only to its wildcard, and are many: they are read for a wildcard
    # alone. A host looks at one row, that of the wildcard above it.
    await connection.execute(_LOCK, sorted(parents))
    rows = await connection.fetch(_WILDCARDS, [names.wildcard_of(parent) for parent in parents])
    wildcards = {row["parent"]: row["account"] for row in rows}
    hosts = {}
    if wildcard_parents:
        for row in await connection.fetch(_HOSTS, wildcard_parents):
            hosts[row["parent"]] = frozenset(row["accounts"])
    return FamilyHolders(wildcards, hosts)
