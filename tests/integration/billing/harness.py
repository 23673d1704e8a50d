"""A broker, a PostgreSQL and real billing processes, with methods to send to them and to ask."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg

from deploy.embedded.launch import base_environment, python_command
from deploy.embedded.ports import Ports
from deploy.embedded.ready import service_fault
from deploy.embedded.supervisor import ProcessSpec
from shared import catalogue
from shared import subjects as s
from shared.catalogue_row import AnswerT, Query, QuestionT
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.base import Contract
from shared.contracts.commands import (
    CloseHour,
    CreditBalance,
    SetThreshold,
    TrustDocument,
    TrustedKey,
)
from shared.contracts.domains import DomainRegistered, DomainRemoved, ServiceType
from shared.contracts.edge import NodeEvent
from shared.contracts.queries import (
    DeadLetter,
    ListDead,
    QueryUsage,
    ShowBalance,
    UsagePage,
)
from shared.contracts.usage import Confirmation, HttpsRequest, UsageBatch, UsageCell
from shared.crypto.signing import OPERATOR_KEY_ID, Purpose, Signer, Verifier
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.rpc import ask
from shared.private_files import write_private
from tests.support.backend import Backend, backend
from tests.support.waiting import until

NODES = ("node-1", "node-2", "node-3")
HOST = "127.0.0.1"


@dataclass
class Stage:
    """Real processes. Each test uses new accounts, domains and logs: nothing is reset."""

    backend: Backend
    database: asyncpg.Pool[asyncpg.Record]
    billing_key: Signer
    clients: dict[str, Client]
    ports: Ports
    clock_file: Path
    confirmed: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    events: list[BalanceEvent] = field(default_factory=list)
    revision: int = 0
    ports_of: dict[str, int] = field(default_factory=dict)

    # Sent by the platform, the operator and the nodes

    async def send(
        self, user: str, subject: str, body: Contract, *, id: str | None = None, usage: bool = False
    ) -> str:
        message = outgoing(
            subject, body, source=user, about="x", at=datetime.now(UTC), id=id, dedupe=not usage
        )
        await Publisher(self.clients[user]).publish(message)
        return message.id

    async def enrol(self, node: str) -> None:
        event = NodeEvent(node=node, change="enrolled", at=datetime.now(UTC))
        await self.send("edge_sync", catalogue.EVENT_NODE_ENROLLED, event)

    async def register(self, domain: str, account: str, at: datetime | None = None) -> None:
        self.revision += 1
        event = DomainRegistered(
            domain=domain,
            account=account,
            service_type=ServiceType.VIDEO,
            revision=self.revision,
            at=at or datetime.now(UTC),
        )
        await self.send("config", catalogue.EVENT_DOMAIN_REGISTERED, event)

    async def remove(self, domain: str, account: str, at: datetime) -> None:
        self.revision += 1
        event = DomainRemoved(domain=domain, account=account, revision=self.revision, at=at)
        await self.send("config", catalogue.EVENT_DOMAIN_REMOVED, event)

    async def batch(self, batch: UsageBatch, node: str | None = None) -> None:
        """Send a batch as billing, which may publish for every node."""
        await self.send(
            "billing", catalogue.USAGE_BATCH.for_node(node or batch.node), batch, usage=True
        )

    async def raw(self, subject: str, body: bytes, user: str = "billing") -> None:
        await self.clients[user].jetstream(timeout=5).publish(subject, body)

    async def request(self, request: HttpsRequest) -> None:
        await self.send("platform", catalogue.USAGE_REQUEST, request, usage=True)

    async def credit(
        self, account: str, amount: str, reference: str | None = None, currency: str = "CNY"
    ) -> str:
        command = CreditBalance(
            account=account,
            reference=reference or new_id(),
            amount=Decimal(amount),
            currency=currency,
        )
        return await self.send("platform", catalogue.CMD_BALANCE_CREDIT, command)

    async def threshold(self, account: str, amount: str | None, currency: str = "CNY") -> str:
        wanted = None if amount is None else Decimal(amount)
        return await self.send(
            "platform",
            catalogue.CMD_BALANCE_THRESHOLD,
            SetThreshold(account=account, threshold=wanted, currency=currency),
        )

    async def close_hour(self, until_time: datetime) -> None:
        await self.send("operator", catalogue.CMD_HOUR_CLOSE, CloseHour(until=until_time))

    # Asked by them

    async def ask(
        self, query: Query[QuestionT, AnswerT], question: QuestionT, user: str = "finance"
    ) -> AnswerT:
        return await ask(self.clients[user], query, question)

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
            limit=20,
        )

    async def balance_events(self, account: str, change: str) -> list[BalanceEvent]:
        return [
            event for event in self.events if event.account == account and event.change == change
        ]

    async def until_balance_event(self, account: str, change: str, times: int = 1) -> BalanceEvent:
        async def published() -> bool:
            return len(await self.balance_events(account, change)) >= times

        await until(published, f"{account}: {change} x {times}", limit=20)
        return (await self.balance_events(account, change))[-1]

    async def dead_letters(self) -> list[DeadLetter]:
        page = await self.ask(
            catalogue.RPC_DEAD_LIST["billing"], ListDead(limit=500), user="operator"
        )
        return page.letters

    async def until_dead_letter(self, text: str) -> DeadLetter:
        async def found() -> DeadLetter | None:
            return next(
                (letter for letter in await self.dead_letters() if text in letter.reason), None
            )

        letter = await until(found, f"a dead letter has {text}")
        assert letter is not None
        return letter

    # Processes

    async def start(self, name: str = "billing") -> None:
        await self.backend.supervisor.start(self._spec(name))
        await self.ready(name)

    async def ready(self, name: str = "billing") -> None:
        try:
            await until(lambda: self._healthy(self.ports_of[name]), f"{name} is ready", limit=30)
        except AssertionError as error:
            fault = await service_fault(HOST, self.ports_of[name])
            log = self.backend.supervisor.log(name).read_text()[-2000:]
            raise AssertionError(f"{error}: {fault}\n{log}") from None

    def kill(self, name: str = "billing") -> None:
        self.backend.supervisor.kill(name, signal.SIGKILL)

    async def _healthy(self, port: int) -> bool:
        return await service_fault(HOST, port) is None

    def _spec(self, name: str) -> ProcessSpec:
        keys = self.backend.folder / "keys"
        port = self.ports_of[name] = self.ports.pick(name)
        own = {
            "NATS_URL": self.backend.url,
            "NATS_SEED_FILE": keys / "billing.nk",
            "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": keys / "operator.pub",
            "TRUST_FILE": keys / "trust.json",
            "EMBEDDED": "true",
            "TEST_CLOCK": self.clock_file,
            "BILLING_DSN": self.backend.dsns["billing"],
            "BILLING_SIGNING_KEY_FILE": keys / "billing.ed25519",
            "BILLING_HOUR_GRACE_SECONDS": 3600,
            "BILLING_MINUTES_KEPT_DAYS": 4000,
            "BILLING_HOURS_KEPT_DAYS": 4400,
        }
        environment = {
            **base_environment(),
            **{f"EDGETLS_{key}": str(value) for key, value in own.items()},
        }
        return ProcessSpec(
            name, python_command("services.billing"), environment, self.backend.folder, rank=2
        )


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Start a broker and a PostgreSQL, without a billing process. The nodes are enrolled."""
    async with backend(folder, databases=("billing",), nodes=NODES) as made:
        signer = _keys(folder / "keys")
        users = ("billing", "config", "edge_sync", "platform", "operator", "finance", "node-node-1")
        clients = {user: await made.client(user) for user in users}
        pool = await asyncpg.create_pool(made.dsns["billing"], min_size=1, max_size=4)
        built = Stage(
            made, pool, signer, clients, Ports(folder / "billing-ports.json"), folder / "clock"
        )
        await _listen(built)
        for node in NODES:
            await built.enrol(node)
        try:
            yield built
        finally:
            await pool.close()


async def _listen(stage: Stage) -> None:
    verifier = Verifier([(stage.billing_key.key_id, stage.billing_key.public_text())])

    async def on_confirmation(message: Msg) -> None:
        one = verifier.open_bytes(Purpose.CONFIRMATION, message.data, Confirmation)
        stage.confirmed[one.node, one.log] = max(stage.confirmed[one.node, one.log], one.end)

    seen: set[str] = set()

    async def on_balance_event(message: Msg) -> None:
        """Keep each event once by its id: after a crash it is published again, which the stream
        drops and a live subscriber does not."""
        identity = (message.headers or {}).get("ce-id", "")
        if "balance" in message.subject and identity not in seen:
            seen.add(identity)
            stage.events.append(BalanceEvent.model_validate_json(message.data))

    node = stage.clients["node-node-1"]
    await node.subscribe(catalogue.EDGE_CONFIRMED.for_node("node-1"), cb=on_confirmation)
    others = await stage.backend.client("node-node-2"), await stage.backend.client("node-node-3")
    for name, client in zip(NODES[1:], others, strict=True):
        await client.subscribe(catalogue.EDGE_CONFIRMED.for_node(name), cb=on_confirmation)
    platform = stage.clients["platform"]
    await platform.subscribe(s.EVENTS_ALL, cb=on_balance_event)
    await asyncio.gather(*(client.flush() for client in (node, platform, *others)))


def _keys(folder: Path) -> Signer:
    now = datetime.now(UTC)
    operator, billing = Signer.generate(OPERATOR_KEY_ID), Signer.generate("billing-1")
    key = TrustedKey(
        purpose="billing",
        key_id="billing-1",
        public_key=billing.public_text(),
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=400),
    )
    trust = operator.sign(Purpose.TRUST, TrustDocument(serial=1, keys=[key], issued_at=now))
    write_private(folder / "operator.pub", operator.public_text() + "\n")
    write_private(folder / "trust.json", trust.encode().decode() + "\n")
    write_private(folder / "billing.ed25519", f"{billing.key_id} {billing.text()}\n")
    return billing


def current_minute() -> int:
    return int(datetime.now(UTC).timestamp()) // 60


def cell(domain: str, requests: int, minute: int | None = None) -> UsageCell:
    return UsageCell(
        domain=domain,
        minute=current_minute() if minute is None else minute,
        https_requests=requests,
        https_bytes=requests * 100,
        http_requests=1,
        http_bytes=7,
    )


def split(
    log: str, parts: Sequence[Sequence[UsageCell]], node: str = "node-1", size: int = 100
) -> list[UsageBatch]:
    """Make a batch of each part; each batch is ``size`` bytes of the log."""
    return [
        UsageBatch(
            node=node,
            log=log,
            start=i * size,
            end=(i + 1) * size,
            read_to=len(parts) * size,
            cells=list(part),
        )
        for i, part in enumerate(parts)
    ]


def name(kind: str) -> str:
    """Return a name that no other test has."""
    return f"{kind}-{new_id()[:8]}"


def domain_name() -> str:
    return f"{name('d')}.example.test"
