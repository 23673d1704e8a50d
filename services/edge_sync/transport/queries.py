"""Every subject of core NATS that edge_sync takes: queries and the statuses of nodes.

Every replica hears each message, but only the leader knows the fleet's state. There is no queue
group: it would hand half of the messages to a standby.
"""

from __future__ import annotations

from faststream import Depends
from faststream.exceptions import AckMessage
from faststream.nats import NatsMessage, NatsRouter

from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker, read_clocks
from services.edge_sync.usecases.leader import Leader
from services.edge_sync.usecases.queries import EdgeQueries
from shared import catalogue, subjects
from shared.contracts.edge import NodeStatus
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.rpc import answer


def edge_router(
    leader: Leader,
    queries: EdgeQueries,
    tracker: ConvergenceTracker,
    dead_letters: DeadLetterService,
) -> NatsRouter:
    """Bind the queries, the operator's questions about dead letters, and the statuses of nodes."""

    async def stay_silent_in_standby() -> None:
        # FastStream answers nothing after AckMessage, so that the leader's is the only answer.
        if not leader.is_leading:
            raise AckMessage

    async def take_status(status: NodeStatus, message: NatsMessage) -> None:
        # The last token of the subject is the only node that may publish on it. A node speaks for
        # itself only.
        node = message.raw_message.subject.rpartition(".")[2]
        if status.node == node:
            tracker.take_status(status, read_clocks())

    router = NatsRouter(dependencies=[Depends(stay_silent_in_standby)])
    router.subscriber(catalogue.EDGE_STATUS)(take_status)
    answer(router, catalogue.RPC_EDGE_MAX_REVISION, queries.show_max_revision)
    answer(router, catalogue.RPC_EDGE_DIGEST, queries.show_digest)
    answer(router, catalogue.RPC_EDGE_CONVERGENCE, queries.show_convergence)
    answer(router, catalogue.RPC_FLEET_SHOW, queries.show_fleet)
    router.include_router(dead_letter_router(subjects.EDGE_SYNC, dead_letters))
    return router
