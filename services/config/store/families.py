"""Who holds the wildcard above a name, or the hosts under it (rule A2), for all registrations of a
transaction at once.

A family is a wildcard and the hosts that it covers. Its lock is held until the transaction ends, so
that two registrations of one family see each other; families are locked in order of their name by
every replica.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from services.config.domain import names
from services.config.domain.model import Domain, Known
from shared.storage.pool import Connection


class Families:
    """Loaded with ``lock``; ``note`` what the transaction itself changes, in order of (parent,
    name)."""

    def __init__(self) -> None:
        self._wildcards: dict[str, str] = {}
        self._hosts: dict[str, set[str]] = defaultdict(set)

    @classmethod
    async def lock(cls, connection: Connection, registered: Iterable[str]) -> Families:
        """``registered``: the names that are to be registered."""
        found, wanted = cls(), list(registered)
        if not wanted:
            return found
        parents = sorted({names.parent(name) for name in wanted})
        await connection.execute(
            "select pg_advisory_xact_lock(hashtextextended('family ' || f, 0)) from "
            "unnest($1::text[]) as f",
            parents,
        )
        rows = await connection.fetch(
            "select parent, account from domains where name = any($1::text[]) and not removed",
            [_wildcard(parent) for parent in parents],
        )
        found._wildcards = {row["parent"]: row["account"] for row in rows}
        under = [names.parent(name) for name in wanted if name == _wildcard(names.parent(name))]
        rows = (
            await connection.fetch(
                "select distinct parent, account from domains where parent = any($1::text[]) "
                "and not removed and"
                " name <> '*.' || parent",
                under,
            )
            if under
            else []
        )
        for row in rows:
            found._hosts[row["parent"]].add(row["account"])
        return found

    def known(self, name: str) -> Known:
        parent = names.parent(name)
        if name == _wildcard(parent):
            return Known(frozenset(self._hosts[parent]))
        return Known(frozenset({self._wildcards[parent]} if parent in self._wildcards else ()))

    def note(self, name: str, after: Domain | None) -> None:
        """A wildcard is decided before its hosts: they must see what became of it."""
        parent = names.parent(name)
        if name != _wildcard(parent):
            return
        if after is not None and not after.removed:
            self._wildcards[parent] = after.account
        else:
            self._wildcards.pop(parent, None)


def _wildcard(parent: str) -> str:
    return f"{names.WILDCARD}.{parent}"
