"""Owners, known nodes and prices in memory, as of the asking transaction, whose lock keeps them
unchanged until it ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from services.billing.domain.balance import Terms
from services.billing.domain.ownership import Period, periods
from services.billing.domain.price_book import Prices
from services.billing.domain.usage_aggregator import Owners, valid_domain
from services.billing.store import owners as store
from services.billing.store import prices as price_store
from shared.storage.pool import Connection

_MOST: Final = 300_000
"""Domains kept in memory; beyond them the book starts anew."""


class Book:
    """Shared by everything in the process that attributes or rates usage."""

    def __init__(self, overdue_after: timedelta = timedelta(hours=24)) -> None:
        self._owners: dict[str, tuple[Period, ...]] = {}
        self._nodes: set[str] = set()
        self._version: int | None = None
        self.overdue_after = overdue_after
        self._prices = Prices()

    async def open(self, connection: Connection) -> None:
        """First in a transaction: takes the shared lock, forgets what has changed since."""
        await store.hold_owners(connection)
        if self._version is None:
            self._version = await store.newest_version(connection)
        version, serial, changed = await store.changed_since(connection, self._version)
        for domain in changed:
            self._owners.pop(domain, None)
        self._version = max(self._version, version)
        if serial != self._prices.serial:
            self._prices = await price_store.current(connection)

    def terms(self, at: datetime) -> Terms:
        """In a transaction that has opened the book."""
        return Terms(self._prices, at, self.overdue_after)

    async def owners(self, connection: Connection, domains: Iterable[str]) -> Owners:
        """Knows every valid one of ``domains``; of one that nobody registered, that it has no
        owner."""
        if len(self._owners) > _MOST:
            self._owners = {}
        owners = self._owners  # another task may begin a new one meanwhile
        missing = [domain for domain in domains if domain not in owners and valid_domain(domain)]
        if missing:
            facts = await store.facts_of(connection, missing)
            for domain in missing:
                owners[domain] = periods(facts.get(domain, ()))
        return owners

    async def known_nodes(self, connection: Connection, nodes: set[str]) -> set[str]:
        """Those of ``nodes`` that were ever enrolled."""
        unsure = nodes - self._nodes
        if unsure:
            self._nodes |= await store.known_nodes(connection, unsure)
        return nodes & self._nodes
