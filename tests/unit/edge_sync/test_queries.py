"""Messages of core NATS: the leader answers queries and takes statuses, a standby stays silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faststream.nats import NatsBroker, NatsMessage, TestNatsBroker

from services.edge_sync.domain.bucket_index import BucketIndex
from services.edge_sync.domain.bundles import StoredBundle
from services.edge_sync.domain.fleet import EpochRecord, FleetState, NodeRecord
from services.edge_sync.settings import EdgeSyncSettings
from services.edge_sync.store.convergences import LastConvergence
from services.edge_sync.transport.queries import edge_router
from services.edge_sync.usecases.convergence_tracker import ConvergenceTracker
from services.edge_sync.usecases.queries import EdgeQueries
from shared import catalogue
from shared.contracts.base import Contract
from shared.contracts.codec import parse
from shared.contracts.edge import BundleKind, NodeStatus
from shared.contracts.findings import Code, Refusal
from shared.contracts.queries import (
    ConvergenceView,
    DigestAnswer,
    DigestQuestion,
    FleetView,
    ListDead,
    MaxRevision,
    Nothing,
    OneDead,
    ShowConvergence,
)
from shared.crypto.digest import bucket_of
from shared.messaging.dead_letter_service import DeadLetterService
from shared.messaging.rpc import answer_refusals

T0 = datetime(2026, 3, 1, tzinfo=UTC)
DOMAIN = "www.example.test"
QUESTIONS: dict[str, Contract] = {
    catalogue.RPC_EDGE_MAX_REVISION: Nothing(),
    catalogue.RPC_EDGE_DIGEST: DigestQuestion(),
    catalogue.RPC_EDGE_CONVERGENCE: ShowConvergence(domain=DOMAIN),
    catalogue.RPC_FLEET_SHOW: Nothing(),
}
DEAD_LETTER_QUESTIONS: dict[str, Contract] = {
    catalogue.RPC_DEAD_LIST["edge_sync"]: ListDead(),
    catalogue.RPC_DEAD_SHOW["edge_sync"]: OneDead(sequence=1),
    catalogue.RPC_DEAD_REPLAY["edge_sync"]: OneDead(sequence=1),
    catalogue.RPC_DEAD_DROP["edge_sync"]: OneDead(sequence=1),
}


class FakeStore:
    """The database's part of the answers."""

    async def max_revision(self) -> int:
        return 6

    async def find_last_converged(self, domain: str) -> LastConvergence:
        return LastConvergence(6, 250.0)


class QueryStage:
    """The router on a broker in memory, with a fleet of one node and a bucket of one bundle."""

    def __init__(self) -> None:
        node = NodeRecord("node-1", "", "", {}, b"", T0, T0)
        fleet = FleetState({"node-1": node}, {1: EpochRecord(1, "p", b"", T0, T0)})
        index = BucketIndex("today")
        index.put(DOMAIN, StoredBundle(7, 1, BundleKind.HTTP_ONLY, frozenset(), "ab" * 32, 3))
        index.advance_to(3)
        self.root = index.root()
        settings = EdgeSyncSettings(
            nats_url="x",
            nats_seed_file=Path("x"),
            operator_key_file=Path("x"),
            trust_file=Path("x"),
            edge_sync_dsn="x",
            edge_sync_signing_key_file=Path("x"),
        )
        self.tracker = ConvergenceTracker(fleet.nodes, lambda: index, settings)
        leader: Any = SimpleNamespace(is_leading=True)
        self.leader = leader
        store: Any = FakeStore()
        writer: Any = SimpleNamespace(index=index)
        keyrings: Any = SimpleNamespace(sealing_statement=None)
        queries = EdgeQueries(fleet, store, writer, keyrings, self.tracker)
        self.answers: list[bytes] = []
        self.broker = NatsBroker(logger=None, middlewares=[answer_refusals()])
        away: Any = SimpleNamespace(jetstream=lambda **_: None)
        dead_letters = DeadLetterService(away, away, "edge_sync")
        self.broker.include_router(edge_router(leader, queries, self.tracker, dead_letters))
        self.broker.subscriber("answers")(self._keep_answer)

    async def _keep_answer(self, message: NatsMessage) -> None:
        self.answers.append(message.body)

    async def ask(self, subject: str, question: Contract) -> None:
        await self.broker.publish(question.encode(), subject, reply_to="answers")

    async def report(self, node: str, status: NodeStatus) -> None:
        await self.broker.publish(status.encode(), catalogue.EDGE_STATUS.for_node(node))

    def status(self, node: str = "node-1") -> NodeStatus:
        return NodeStatus(
            node=node,
            incarnation="today",
            sequence=3,
            root=self.root,
            epochs=[1],
            stale=False,
            proofs=[],
            logs=[],
            nginx_restarts=0,
            time=T0,
        )


@pytest.fixture
async def stage() -> AsyncIterator[QueryStage]:
    stage = QueryStage()
    async with TestNatsBroker(stage.broker):
        yield stage


@pytest.mark.parametrize(
    ("subject", "question"), [*QUESTIONS.items(), *DEAD_LETTER_QUESTIONS.items()]
)
async def test_a_standby_answers_nothing(
    stage: QueryStage, subject: str, question: Contract
) -> None:
    stage.leader.is_leading = False
    await stage.ask(subject, question)
    assert stage.answers == []


@pytest.mark.parametrize(("subject", "question"), DEAD_LETTER_QUESTIONS.items())
async def test_the_leader_answers_that_it_is_busy_while_the_broker_is_away(
    stage: QueryStage, subject: str, question: Contract
) -> None:
    await stage.ask(subject, question)
    assert [one.code for one in parse(Refusal, stage.answers[0]).refusal] == [Code.SERVICE_BUSY]


async def test_the_leader_answers_each_query_with_its_model(stage: QueryStage) -> None:
    for subject, question in QUESTIONS.items():
        await stage.ask(subject, question)
    revision, digest, convergence, fleet = stage.answers
    assert parse(MaxRevision, revision).revision == 7
    assert len(parse(DigestAnswer, digest).digests) == 1024
    view = parse(ConvergenceView, convergence)
    assert (view.revision, view.converged_revision, view.converged_ms) == (7, 6, 250.0)
    assert (view.proven, view.missing) == ([], [])
    shown = parse(FleetView, fleet)
    assert (shown.epoch, shown.sealing_epoch, shown.sequence, shown.domains) == (1, 0, 3, 1)
    assert [(node.node, node.state) for node in shown.nodes] == [("node-1", "silent")]


async def test_a_digest_of_one_bucket_has_its_members(stage: QueryStage) -> None:
    await stage.ask(catalogue.RPC_EDGE_DIGEST, DigestQuestion(bucket=bucket_of(DOMAIN)))
    answer = parse(DigestAnswer, stage.answers[0])
    assert answer.digests == []
    assert [(row.domain, row.revision) for row in answer.members] == [(DOMAIN, 7)]


async def test_a_malformed_question_is_refused(stage: QueryStage) -> None:
    await stage.broker.publish(b'{"bucket": 5000}', catalogue.RPC_EDGE_DIGEST, reply_to="answers")
    refusal = parse(Refusal, stage.answers[0])
    assert [one.code for one in refusal.refusal] == [Code.REQUEST_MALFORMED]


async def test_a_node_reports_for_itself_only_and_to_the_leader_only(stage: QueryStage) -> None:
    await stage.report("node-2", stage.status("node-1"))
    assert stage.tracker.take_unsaved() == []
    stage.leader.is_leading = False
    await stage.report("node-1", stage.status("node-1"))
    assert stage.tracker.take_unsaved() == []
    stage.leader.is_leading = True
    await stage.report("node-1", stage.status("node-1"))
    assert [(row.node, row.sequence) for row in stage.tracker.take_unsaved()] == [("node-1", 3)]
