"""Owners, known nodes and prices in memory, as the asking transaction sees them."""

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

_MAX_DOMAINS: Final = 300_000
"""Domains kept in memory; beyond them the cache starts anew."""


class ReferenceCache:
    """Everything that attributing and rating usage needs, shared by the tasks of the process.

    ``overdue_after``: how long an account may be depleted (rule E7)."""

    def __init__(self, overdue_after: timedelta = timedelta(hours=24)) -> None:
        self.overdue_after = overdue_after
        self._owners: dict[str, tuple[OwnershipPeriod, ...]] = {}
        self._nodes: set[str] = set()
        self._version: int | None = None
        self._prices = PriceLookup()

    async def refresh(self, connection: Connection) -> None:
        """Take the shared lock of owners, and drop what has changed since the last refresh.

        Call it first in a transaction: the lock keeps all of it unchanged until the end."""
        # A change takes the exclusive lock, so under the shared one nothing changes. Versions are
        # assigned under the exclusive lock: they follow the order of the commits. So every change
        # that this transaction can see and the cache cannot has a version above the last one seen.
        # A transaction that changes owners refreshes before it adds its own events, so the cache
        # never has what is not committed.
        await store.lock_owners_shared(connection)
        if self._version is None:
            self._version = await store.load_newest_version(connection)
        changes = await store.load_changes(connection, self._version)
        for domain in changes.domains:
            self._owners.pop(domain, None)
        self._version = max(self._version, changes.version)
        if changes.serial != self._prices.serial:
            self._prices = await price_store.load_current_prices(connection)

    def pricing_at(self, at: datetime) -> PricingContext:
        """Return the prices with the time ``at``, in a transaction that has called refresh()."""
        return PricingContext(self._prices, at, self.overdue_after)

    async def load_owners(self, connection: Connection, domains: Iterable[str]) -> Owners:
        """Return owners with an entry for each valid one of ``domains``.

        The entry of a domain that was never registered has no periods."""
        if len(self._owners) > _MAX_DOMAINS:
            self._owners = {}
        owners = self._owners  # another task may begin a new one meanwhile
        missing = [domain for domain in domains if domain not in owners and valid_domain(domain)]
        if missing:
            events = await store.load_ownership_events(connection, missing)
            for domain in missing:
                owners[domain] = ownership_periods(events.get(domain, ()))
        return owners

    async def find_known_nodes(self, connection: Connection, nodes: set[str]) -> set[str]:
        """Return those of ``nodes`` that were ever enrolled."""
        unsure = nodes - self._nodes
        if unsure:
            self._nodes |= await store.find_known_nodes(connection, unsure)
        return nodes & self._nodes
