"""Events of other services: who owns a domain, and which nodes there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.billing.domain.ownership import NOBODY, OwnershipEvent, ownership_periods
from services.billing.domain.usage_aggregator import AccountHour
from services.billing.store import owners, usage
from services.billing.store.owners import NodeState
from services.billing.usecases.accrue import accrue_usage
from services.billing.usecases.reference_cache import ReferenceCache
from shared import catalogue
from shared.clock import Clock
from shared.contracts.codec import parse
from shared.contracts.domains import DomainRegistered, DomainRemoved
from shared.contracts.edge import NodeEvent
from shared.errors import Poison
from shared.messaging.delivery import Delivery
from shared.storage.pool import Connection, Pool


@dataclass
class _OwnershipChanges:
    """The content of events that arrived together."""

    domains: list[tuple[str, OwnershipEvent]] = field(default_factory=list)
    nodes: list[NodeState] = field(default_factory=list)

    def add_event(self, delivery: Delivery) -> None:
        """Read one event. Malformed when it is not its contract."""
        if delivery.subject == catalogue.EVENT_DOMAIN_REGISTERED:
            registered = parse(DomainRegistered, delivery.body)
            event = OwnershipEvent(
                registered.revision, "registered", registered.account, registered.at
            )
            self.domains.append((registered.domain, event))
        elif delivery.subject == catalogue.EVENT_DOMAIN_REMOVED:
            removed = parse(DomainRemoved, delivery.body)
            event = OwnershipEvent(removed.revision, "removed", removed.account, removed.at)
            self.domains.append((removed.domain, event))
        else:
            node = parse(NodeEvent, delivery.body)
            self.nodes.append(NodeState(node.node, node.change, node.at))


class OwnershipIngest:
    """Stores ownership events and nodes, and moves usage to its owners.

    While it does, no other transaction may count usage: so it takes many events at once.
    ``on_node`` is called after the commit for every node that an event named."""

    def __init__(
        self,
        pool: Pool,
        cache: ReferenceCache,
        clock: Clock,
        on_node: Callable[[str], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._clock = clock
        self._on_node = on_node

    async def ingest_events(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Poison]]:
        """Store events in one transaction. Return those that must become dead letters."""
        changes = _OwnershipChanges()
        poison: list[tuple[Delivery, Poison]] = []
        for delivery in deliveries:
            try:
                changes.add_event(delivery)
            except Poison as error:
                poison.append((delivery, error))
        # The exclusive lock waits for every transaction that counts usage, and keeps new ones out.
        # So each of them attributes its usage either before this change, and then its rows are
        # there and are moved here, or after it, and then it sees the new owner. None is missed.
        async with self._pool.acquire() as connection, connection.transaction():
            await owners.lock_owners_exclusive(connection)
            await self._cache.refresh(connection)
            await owners.add_nodes(connection, changes.nodes)
            changed = await owners.add_ownership_events(connection, changes.domains)
            await self._reattribute(connection, sorted(changed))
        # After the commit: batches that waited for a node are counted under the shared lock.
        for node in sorted({state.node for state in changes.nodes}):
            await self._on_node(node)
        return poison

    async def _reattribute(self, connection: Connection, domains: Sequence[str]) -> None:
        """Move the usage of domains to the accounts that own it now.

        An hour that was charged already is corrected at the next close."""
        events = await owners.load_ownership_events(connection, domains)
        counts: dict[AccountHour, int] = defaultdict(int)
        for domain in domains:
            periods = ownership_periods(events[domain])
            for shift in await usage.reattribute_domain(connection, domain, periods):
                if shift.was != NOBODY:
                    counts[shift.was, shift.hour] -= shift.requests
                if shift.becomes != NOBODY:
                    counts[shift.becomes, shift.hour] += shift.requests
        await accrue_usage(connection, counts, self._cache.pricing_at(self._clock.now()))
