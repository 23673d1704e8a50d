"""What arrives on core NATS: the nodes' statuses and the queries. Every replica hears them, the one
that works answers.

No queue group: it would hand half of them to a replica that knows nothing."""

from __future__ import annotations

from faststream.exceptions import AckMessage
from faststream.nats import NatsMessage, NatsRouter

from services.edge_sync.usecases.convergence_tracker import Observer
from services.edge_sync.usecases.leader import Term
from shared import catalogue
from shared.contracts.edge import NodeStatus
from shared.contracts.queries import (
    ConvergenceView,
    DigestAnswer,
    DigestQuestion,
    FleetView,
    MaxRevision,
    Nothing,
    ShowConvergence,
)


class Desk:
    """Who works at the moment: ``term`` is None in a standby."""

    term: Term | None = None

    def working(self) -> tuple[Term, Observer]:
        """AckMessage in a standby: it stays silent, because another answers."""
        if self.term is None or self.term.observer is None:
            raise AckMessage
        return self.term, self.term.observer


def edge_router(desk: Desk) -> NatsRouter:
    """The replica that works answers; the others are silent."""
    router = NatsRouter()

    @router.subscriber(catalogue.EDGE_STATUS)
    async def edge_status(status: NodeStatus, message: NatsMessage) -> None:
        """What a node has applied and proven; the node is the last token of the subject."""
        desk.working()[0].heard(message.raw_message.subject.rpartition(".")[2], status)

    @router.subscriber(catalogue.RPC_EDGE_MAX_REVISION)
    async def edge_max_revision(question: Nothing) -> MaxRevision:
        """The highest revision that the fleet was ever given, for config's start."""
        return await desk.working()[0].max_revision()

    @router.subscriber(catalogue.RPC_EDGE_DIGEST)
    async def edge_digest(question: DigestQuestion) -> DigestAnswer:
        """The digest of every bucket, or the members of one: they tell a node which of its bundles
        differ."""
        return desk.working()[0].digest(question.bucket)

    @router.subscriber(catalogue.RPC_EDGE_CONVERGENCE)
    async def edge_convergence(question: ShowConvergence) -> ConvergenceView:
        """Which nodes have proven a domain's newest revision."""
        term, observer = desk.working()
        return await term.convergence(question.domain, observer)

    @router.subscriber(catalogue.RPC_FLEET_SHOW)
    async def fleet_show(question: Nothing) -> FleetView:
        """Every node with its state and epochs."""
        term, observer = desk.working()
        return term.fleet(observer)

    return router
