"""The operator's questions about the dead letters of edge_sync."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.edge_sync.settings import Settings
from services.edge_sync.transport.consumers import CHANGES_SOURCE
from services.edge_sync.usecases.domain_changes import DomainChanges
from services.edge_sync.usecases.leader import Leader
from shared import subjects
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.delivery import Delivery
from shared.runtime import Runtime


def edge_dead_letter_router(
    runtime: Runtime[Settings], leader: Leader, changes: DomainChanges
) -> NatsRouter:
    """Bind the questions. A replayed change of a domain is handled by the leader itself: the event
    is config's, and edge_sync may not publish it again."""

    async def handle_again(delivery: Delivery) -> None:
        if not leader.is_leading:
            raise Refused([finding(Code.SERVICE_BUSY)])
        await changes.handle(delivery)

    service = DeadLetterService(
        runtime.client, runtime.publisher, subjects.EDGE_SYNC, {CHANGES_SOURCE: handle_again}
    )
    return dead_letter_router(subjects.EDGE_SYNC, service)
