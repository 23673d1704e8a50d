"""A broker, a PostgreSQL and real billing processes, with methods to send to them and to ask."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
from nats.aio.msg import Msg

from shared import catalogue
from shared import subjects as s
from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.commands import CloseHour, CreditBalance, SetThreshold
from shared.contracts.domains import DomainRegistered, DomainRemoved, ServiceType
from shared.contracts.edge import NodeEvent
from shared.contracts.queries import QueryUsage, ShowBalance, UsagePage
from shared.contracts.usage import Confirmation, HttpsRequest, UsageBatch
from shared.crypto.signing import Purpose
from shared.ids import new_id
from shared.messaging.nats_client import NatsClient
from tests.support.cluster import LocalCluster
from tests.support.service_harness import ServiceHarness
from tests.support.waiting import until

NODES = ("node-1", "node-2", "node-3")


class BillingHarness(ServiceHarness):
    """Billing in processes. The test plays the platform, the operator, config and the nodes.

    ``confirmed``: the confirmed end by node and log; ``events``: those of balances, each once.
    """

    service = "billing"
    users = (
        "billing",
        "config",
        "edge_sync",
        "platform",
        "operator",
        "finance",
        *(f"node-{node}" for node in NODES),
    )

    def __init__(
        self,
        cluster: LocalCluster,
        database: asyncpg.Pool[asyncpg.Record],
        clients: dict[str, NatsClient],
    ) -> None:
        super().__init__(cluster, database, clients)
        self.clock_file = cluster.folder / "clock"
        self.confirmed: dict[tuple[str, str], int] = defaultdict(int)
        self.events: list[BalanceEvent] = []
        self._seen_events: set[str] = set()
        self._revision = 0

    def default_settings(self) -> dict[str, Any]:
        return {
            "EMBEDDED": "true",
            "TEST_CLOCK": self.clock_file,
            "BILLING_HOUR_GRACE_SECONDS": 3600,
            "BILLING_MINUTES_KEPT_DAYS": 4000,
            "BILLING_HOURS_KEPT_DAYS": 4400,
        }

    # Sent by the platform, the operator and the nodes

    async def enrol(self, node: str) -> None:
        event = NodeEvent(node=node, change="enrolled", at=datetime.now(UTC))
        await self.publish("edge_sync", catalogue.EVENT_NODE_ENROLLED, event)

    async def register(self, domain: str, account: str, at: datetime | None = None) -> None:
        self._revision += 1
        event = DomainRegistered(
            domain=domain,
            account=account,
            service_type=ServiceType.VIDEO,
            revision=self._revision,
            at=at or datetime.now(UTC),
        )
        await self.publish("config", catalogue.EVENT_DOMAIN_REGISTERED, event)

    async def remove(self, domain: str, account: str, at: datetime) -> None:
        self._revision += 1
        event = DomainRemoved(domain=domain, account=account, revision=self._revision, at=at)
        await self.publish("config", catalogue.EVENT_DOMAIN_REMOVED, event)

    async def batch(self, batch: UsageBatch, node: str | None = None) -> None:
        """Send a batch as billing, which may publish for every node."""
        subject = catalogue.USAGE_BATCH.for_node(node or batch.node)
        await self.publish("billing", subject, batch, dedupe=False)

    async def request(self, request: HttpsRequest) -> None:
        await self.publish("platform", catalogue.USAGE_REQUEST, request, dedupe=False)

    async def credit(
        self, account: str, amount: str, reference: str | None = None, currency: str = "CNY"
    ) -> str:
        command = CreditBalance(
            account=account,
            reference=reference or new_id(),
            amount=Decimal(amount),
            currency=currency,
        )
        return await self.publish("platform", catalogue.CMD_BALANCE_CREDIT, command)

    async def threshold(self, account: str, amount: str | None, currency: str = "CNY") -> str:
        wanted = None if amount is None else Decimal(amount)
        return await self.publish(
            "platform",
            catalogue.CMD_BALANCE_THRESHOLD,
            SetThreshold(account=account, threshold=wanted, currency=currency),
        )

    async def close_hour(self, until_time: datetime) -> None:
        await self.publish("operator", catalogue.CMD_HOUR_CLOSE, CloseHour(until=until_time))

    # Asked by them

    async def ask(
        self, query: Query[QuestionT, AnswerT], question: QuestionT, user: str = "finance"
    ) -> AnswerT:
        return await self.ask_as(user, query, question)

    async def balance(self, account: str) -> BalanceView:
        return await self.ask(catalogue.RPC_BALANCE_SHOW, ShowBalance(account=account))

    async def usage(self, **question: object) -> UsagePage:
        now = datetime.now(UTC)
        period = {"start": now - timedelta(days=36), "end": now + timedelta(hours=1)}
        return await self.ask(
            catalogue.RPC_USAGE_QUERY, QueryUsage.model_validate(period | question)
        )

    async def counted(self, **question: object) -> int:
        return sum(row.https_requests for row in (await self.usage(**question)).rows)

    async def until_confirmed(self, batch: UsageBatch, end: int | None = None) -> None:
        wanted = batch.end if end is None else end
        await until(
            lambda: self.confirmed[batch.node, batch.log] >= wanted,
            f"{batch.log} is confirmed to {wanted}",
        )

    async def balance_events(self, account: str, change: str) -> list[BalanceEvent]:
        return [
            event for event in self.events if event.account == account and event.change == change
        ]

    async def until_balance_event(self, account: str, change: str, times: int = 1) -> BalanceEvent:
        async def published() -> bool:
            return len(await self.balance_events(account, change)) >= times

        await until(published, f"{account}: {change} x {times}")
        return (await self.balance_events(account, change))[-1]

    async def listen(self) -> None:
        """Keep confirmations and events of balances from now on."""
        for node in NODES:
            subject = catalogue.EDGE_CONFIRMED.for_node(node)
            await self.clients[f"node-{node}"].subscribe(subject, cb=self._keep_confirmation)
        await self.clients["platform"].subscribe(s.EVENTS_ALL, cb=self._keep_balance_event)
        await asyncio.gather(*(client.flush() for client in self.clients.values()))

    async def _keep_confirmation(self, message: Msg) -> None:
        verifier = self.cluster.keys.trust().verifier("billing")
        one = verifier.open_bytes(Purpose.CONFIRMATION, message.data, Confirmation)
        self.confirmed[one.node, one.log] = max(self.confirmed[one.node, one.log], one.end)

    async def _keep_balance_event(self, message: Msg) -> None:
        """Keep each event once by its id: after a crash it is published again, which the stream
        drops and a live subscriber does not."""
        identity = (message.headers or {}).get("ce-id", "")
        if "balance" in message.subject and identity not in self._seen_events:
            self._seen_events.add(identity)
            self.events.append(BalanceEvent.model_validate_json(message.data))


@asynccontextmanager
async def billing_harness(folder: Path) -> AsyncIterator[BillingHarness]:
    """Start a broker and a PostgreSQL, without a billing process. The nodes are enrolled."""
    async with BillingHarness.open(folder, NODES) as harness:
        await harness.listen()
        for node in NODES:
            await harness.enrol(node)
        yield harness
