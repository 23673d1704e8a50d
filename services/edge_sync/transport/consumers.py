"""Every durable that edge_sync takes from: changes of domains, and the operator's commands.

Each function makes its pull anew, because a pull that was cancelled with a lost lease still holds
deliveries that the next leader has been given.
"""

from __future__ import annotations

from datetime import UTC, datetime

from services.edge_sync.metrics import PUT_SECONDS
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.usecases.domain_changes import DomainChanges
from services.edge_sync.usecases.fleet_commands import FleetCommands
from shared import subjects
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.pull import Pull
from shared.runtime import Runtime

CHANGES_AT_ONCE = 32
FLEET_SOURCE, CHANGES_SOURCE = subjects.DEAD_OWNERS[subjects.EDGE_SYNC]


async def consume_domain_changes(
    runtime: Runtime[EdgeSyncSettings], changes: DomainChanges
) -> None:
    """Take https.event.domain.changed.v1 from EVENTS, many at once. Runs until cancelled."""

    async def handle(delivery: Delivery) -> None:
        await changes.handle(delivery)
        taken = datetime.now(UTC) - delivery.stream_time
        PUT_SECONDS.observe(max(0.0, taken.total_seconds()))

    pull = Pull(runtime.client, subjects.STREAM_EVENTS, subjects.DURABLE_EDGE_SYNC_DOMAINS)
    dead_letters = DeadLetters(runtime.publisher, CHANGES_SOURCE)
    await Consumer(pull, handle, dead_letters, runtime.health, concurrency=CHANGES_AT_ONCE).run()


async def consume_fleet_commands(
    runtime: Runtime[EdgeSyncSettings], commands: FleetCommands
) -> None:
    """Take the operator's commands from FLEET, in order. Runs until cancelled."""
    pull = Pull(runtime.client, subjects.STREAM_FLEET, subjects.DURABLE_EDGE_SYNC_FLEET)
    dead_letters = DeadLetters(runtime.publisher, FLEET_SOURCE)
    await Consumer(pull, commands.handle, dead_letters, runtime.health).run()
