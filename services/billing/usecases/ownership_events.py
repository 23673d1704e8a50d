"""What other services tell and billing lives by: who owns a domain, which nodes there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.billing.domain.ownership import NOBODY, OwnershipEvent, ownership_periods
from services.billing.store import owners, usage
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
    """What a lot of events says."""

    domains: list[tuple[str, OwnershipEvent]] = field(default_factory=list)
    nodes: list[tuple[str, str, datetime]] = field(default_factory=list)

    def read(self, delivery: Delivery) -> None:
        """Malformed when it is not its contract."""
        if delivery.subject == catalogue.EVENT_DOMAIN_REGISTERED:
            event = parse(DomainRegistered, delivery.body)
            self.domains.append(
                (
                    event.domain,
                    OwnershipEvent(event.revision, "registered", event.account, event.at),
                )
            )
        elif delivery.subject == catalogue.EVENT_DOMAIN_REMOVED:
            gone = parse(DomainRemoved, delivery.body)
            self.domains.append(
                (gone.domain, OwnershipEvent(gone.revision, "removed", gone.account, gone.at))
            )
        else:
            node = parse(NodeEvent, delivery.body)
            self.nodes.append((node.node, node.change, node.at))


class OwnershipIngest:
    """``take`` learns what arrived together, as the only one who writes usage then: that is why it
    comes in lots.

    ``on_node``: called after the commit for every node that was spoken of."""

    def __init__(
        self,
        pool: Pool,
        cache: ReferenceCache,
        clock: Clock,
        on_node: Callable[[str], Awaitable[None]],
    ) -> None:
        self._pool, self._cache, self._clock, self._on_node = pool, cache, clock, on_node

    async def take(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Poison]]:
        """What must become a dead letter, with its reason."""
        news, poison = _OwnershipChanges(), []
        for delivery in deliveries:
            try:
                news.read(delivery)
            except Poison as error:
                poison.append((delivery, error))
        async with self._pool.acquire() as connection, connection.transaction():
            await owners.lock_owners_exclusive(connection)
            await self._cache.open(connection)
            await owners.add_nodes(connection, news.nodes)
            await self._attribute(
                connection, sorted(await owners.add_ownership_events(connection, news.domains))
            )
        for node in sorted({node for node, _, _ in news.nodes}):
            await self._on_node(node)
        return poison

    async def _attribute(self, connection: Connection, domains: Sequence[str]) -> None:
        """Whatever usage of the domains now belongs to another account moves there; charged hours
        by correction."""
        known = await owners.load_ownership_events(connection, domains)
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for domain in domains:
            for shift in await usage.reattribute_domain(
                connection, domain, ownership_periods(known[domain])
            ):
                counts[shift.was, shift.hour] -= shift.requests
                counts[shift.becomes, shift.hour] += shift.requests
        owned = {key: count for key, count in counts.items() if key[0] != NOBODY}
        await accrue_usage(connection, owned, self._cache.terms(self._clock.now()))
