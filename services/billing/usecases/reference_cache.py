"""Owners, known nodes and prices in memory, as of the asking transaction, whose lock keeps them
unchanged until it ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from services.billing.domain.balance import PricingContext
from services.billing.domain.ownership import OwnershipPeriod, ownership_periods
from services.billing.domain.price_book import PriceLookup
from services.billing.domain.usage_aggregator import Owners, valid_domain
from services.billing.store import owners as store
from services.billing.store import prices as price_store
from shared.storage.pool import Connection

_MOST: Final = 300_000
"""Domains kept in memory; beyond them the book starts anew."""


class ReferenceCache:
    """Shared by everything in the process that attributes or rates usage."""

    def __init__(self, overdue_after: timedelta = timedelta(hours=24)) -> None:
        self._owners: dict[str, tuple[OwnershipPeriod, ...]] = {}
        self._nodes: set[str] = set()
        self._version: int | None = None
        self.overdue_after = overdue_after
        self._prices = PriceLookup()

    async def open(self, connection: Connection) -> None:
        """First in a transaction: takes the shared lock, forgets what has changed since."""
        await store.lock_owners_shared(connection)
        if self._version is None:
            self._version = await store.load_newest_version(connection)
        version, serial, changed = await store.load_changes(connection, self._version)
        for domain in changed:
            self._owners.pop(domain, None)
        self._version = max(self._version, version)
        if serial != self._prices.serial:
            self._prices = await price_store.load_current_prices(connection)

    def terms(self, at: datetime) -> PricingContext:
        """In a transaction that has opened the book."""
        return PricingContext(self._prices, at, self.overdue_after)

    async def owners(self, connection: Connection, domains: Iterable[str]) -> Owners:
        """Knows every valid one of ``domains``; of one that nobody registered, that it has no
        owner."""
        if len(self._owners) > _MOST:
            self._owners = {}
        owners = self._owners  # another task may begin a new one meanwhile
        missing = [domain for domain in domains if domain not in owners and valid_domain(domain)]
        if missing:
            facts = await store.load_ownership_events(connection, missing)
            for domain in missing:
                owners[domain] = ownership_periods(facts.get(domain, ()))
        return owners

    async def known_nodes(self, connection: Connection, nodes: set[str]) -> set[str]:
        """Those of ``nodes`` that were ever enrolled."""
        unsure = nodes - self._nodes
        if unsure:
            self._nodes |= await store.find_known_nodes(connection, unsure)
        return nodes & self._nodes
