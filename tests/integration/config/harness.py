"""A broker, a PostgreSQL and real config processes; the test plays platform, operator, edge_sync
and the validator."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

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
from shared.contracts.base import Contract, SealedKey
from shared.contracts.commands import (
    DisableHttps,
    RegisterDomain,
    RemoveDomain,
    SubmitCertificate,
    SubmittedPair,
    TrustDocument,
    TrustedKey,
)
from shared.contracts.domains import CommandSettled, DomainChanged, DomainView, Origin
from shared.contracts.edge import Bundle
from shared.contracts.findings import Code, finding
from shared.contracts.judging import Attestation, JudgedPair, JudgeSubmission, Verdict
from shared.contracts.queries import (
    DeadLetter,
    GetBundle,
    ListDead,
    MaxRevision,
    ShowDomain,
)
from shared.crypto.signing import OPERATOR_KEY_ID, Purpose, Signer
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.messaging.rpc import ask
from shared.private_files import write_private
from tests.support.backend import Backend, backend
from tests.support.waiting import until

HOST = "127.0.0.1"
ACCOUNT = "acme"
JUDGING_SECONDS = 3
"""Short enough to wait for, long enough for a verdict that a killed broker delays."""
CANARY = base64.b64encode(b"sealed canary").decode()


@dataclass
class Stage:
    """Everything is really there. Domains get fresh names in each test: nothing is reset.

    ``max_revision``: what edge_sync answers, None while it is silent."""

    backend: Backend
    database: asyncpg.Pool[asyncpg.Record]
    validator_key: Signer
    clients: dict[str, Client]
    ports: Ports
    events: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    questions: dict[str, JudgeSubmission] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)
    max_revision: int | None = 0
    silences: int = 0
    ports_of: dict[str, int] = field(default_factory=dict)
    validator: asyncio.Task[None] | None = None

    # The platform

    async def send(
        self, subject: str, body: Contract, *, id: str | None = None, user: str = "platform"
    ) -> str:
        message = outgoing(subject, body, source=user, about="x", at=datetime.now(UTC), id=id)
        await Publisher(self.clients[user]).publish(message)
        return message.id

    async def raw(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self.clients["platform"].jetstream(timeout=5).publish(subject, body, headers=headers)

    async def register(self, domain: str, account: str = ACCOUNT, **others: Any) -> CommandSettled:
        body = {
            "domain": domain,
            "account": account,
            "service_type": "video",
            "origin": Origin(scheme="http", host="origin.example.com", port=80),
            **others,
        }
        return await self.settled(
            await self.send(catalogue.CMD_DOMAIN_REGISTER, RegisterDomain.model_validate(body))
        )

    async def submit(
        self, domain: str, account: str = ACCOUNT, id: str | None = None, title: str | None = None
    ) -> str:
        identity = id or new_id()
        pair = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=CANARY))
        body = SubmitCertificate(
            domain=domain, account=account, submission_id=identity, pairs=[pair], name=title
        )
        return await self.send(catalogue.CMD_CERTIFICATE_SUBMIT, body, id=identity)

    async def disable(self, domain: str, account: str = ACCOUNT) -> str:
        return await self.send(
            catalogue.CMD_HTTPS_DISABLE, DisableHttps(domain=domain, account=account)
        )

    async def remove(self, domain: str, account: str = ACCOUNT) -> str:
        return await self.send(
            catalogue.CMD_DOMAIN_REMOVE, RemoveDomain(domain=domain, account=account)
        )

    async def enable(self, domain: str, account: str = ACCOUNT, **pair: Any) -> CommandSettled:
        submission = await self.submit(domain, account)
        await self.verdict(await self.asked(submission), pairs=[self.pair(domain, account, **pair)])
        return await self.settled(submission)

    # The validator

    def start_validator(self) -> None:
        """It takes questions from now on. A verdict is for the test to give."""
        self.validator = asyncio.create_task(_take_questions(self))

    async def stop_validator(self) -> None:
        """No validator is there until the next start."""
        if self.validator is not None:
            self.validator.cancel()
            await asyncio.gather(self.validator, return_exceptions=True)

    async def asked(self, submission: str) -> JudgeSubmission:
        return await until(lambda: self.questions.get(submission), f"{submission} is to be judged")

    async def verdict(
        self,
        question: JudgeSubmission,
        *,
        pairs: list[JudgedPair] | None = None,
        codes: tuple[Code, ...] = (),
    ) -> None:
        """Accepts when there are pairs."""
        judged = question.domains or [name for pair in pairs or [] for name in pair.sans]
        body = Verdict(
            submission_id=question.submission_id,
            account=question.account,
            accepted=dict.fromkeys(judged, bool(pairs)),
            findings=[finding(code) for code in codes],
            pairs=pairs or [],
        )
        await self.send(catalogue.VERDICT_SUBMISSION, body, user="validator")

    def pair(
        self,
        domain: str,
        account: str = ACCOUNT,
        *,
        name: str | None = None,
        epoch: int = 1,
        signer: Signer | None = None,
        days: int = 90,
    ) -> JudgedPair:
        """A pair as the validator makes it; ``name`` tells its leaf from others."""
        now = datetime.now(UTC)
        identity = name or new_id()
        body = base64.b64encode(identity.encode()).decode()
        chain = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        word = Attestation(
            account=account,
            domains=[domain],
            pair_id=f"pair-{identity}",
            leaf_fingerprint=sha256(identity.encode()).hexdigest(),
            chain_hash=sha256(chain.encode()).hexdigest(),
        )
        return JudgedPair(
            pair_id=word.pair_id,
            chain=chain,
            leaf_fingerprint=word.leaf_fingerprint,
            subject=f"CN={domain}",
            sans=[domain],
            issuer="CN=Test",
            key_type="ECDSA",
            key_bits=256,
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=days, minutes=1),
            sealed_key=SealedKey(epoch=epoch, box=CANARY),
            attestation=(signer or self.validator_key).sign(Purpose.ATTESTATION, word),
        )

    # What they see

    async def ask(
        self, query: Query[QuestionT, AnswerT], question: QuestionT, user: str = "platform"
    ) -> AnswerT:
        return await ask(self.clients[user], query, question)

    async def show(self, domain: str, account: str | None = ACCOUNT) -> DomainView:
        return await self.ask(catalogue.RPC_DOMAIN_SHOW, ShowDomain(domain=domain, account=account))

    async def bundle(self, domain: str) -> Bundle:
        answer = await self.ask(catalogue.RPC_BUNDLE_GET, GetBundle(domain=domain), "edge_sync")
        assert answer.payload is not None
        return Bundle.model_validate_json(answer.payload)

    def said(self, subject: str, cause: str) -> list[dict[str, Any]]:
        return [
            body
            for at, body, headers in self.events
            if at == subject and headers["ce-causationid"] == cause
        ]

    async def settled(self, command: str) -> CommandSettled:
        found = await until(
            lambda: self.said(catalogue.EVENT_COMMAND_SETTLED, command),
            f"{command} is settled",
            limit=20,
            every=0.002,
        )
        return CommandSettled.model_validate(found[0])

    def changed(self, command: str) -> DomainChanged:
        (body,) = self.said(catalogue.EVENT_DOMAIN_CHANGED, command)
        return DomainChanged.model_validate(body)

    def changed_all(self, cause: str) -> dict[str, str]:
        """The change by domain, of a message that concerns many."""
        return {
            body["domain"]: body["change"]
            for body in self.said(catalogue.EVENT_DOMAIN_CHANGED, cause)
        }

    async def until_dead(self, text: str) -> DeadLetter:
        async def found() -> DeadLetter | None:
            page = await self.ask(
                catalogue.RPC_DEAD_LIST["config"], ListDead(limit=500), user="operator"
            )
            return next(
                (one for one in page.letters if text in f"{one.reason} {one.headers}"), None
            )

        letter = await until(found, f"a dead letter says {text}")
        assert letter is not None
        return letter

    # Processes

    async def start(self, name: str = "config", **settings: Any) -> None:
        await self.backend.supervisor.start(self._spec(name, settings))
        await self.ready(name)

    async def ready(self, name: str = "config") -> None:
        async def healthy() -> bool:
            return await service_fault(HOST, self.ports_of[name]) is None

        await until(healthy, f"{name} is ready", limit=30)

    def kill(self, name: str = "config") -> None:
        self.backend.supervisor.kill(name, signal.SIGKILL)

    def pause(self, name: str, stopped: bool) -> None:
        pid = self.backend.supervisor.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def _spec(self, name: str, settings: dict[str, Any]) -> ProcessSpec:
        keys = self.backend.folder / "keys"
        port = self.ports_of[name] = self.ports.pick(name)
        own = {
            "NATS_URL": self.backend.url,
            "NATS_SEED_FILE": keys / "config.nk",
            "HEALTH_PORT": port,
            "OPERATOR_KEY_FILE": keys / "operator.pub",
            "TRUST_FILE": keys / "trust.json",
            "CONFIG_DSN": self.backend.dsns["config"],
            "JUDGING_SECONDS": JUDGING_SECONDS,
            **settings,
        }
        environment = {
            **base_environment(),
            **{f"EDGETLS_{key}": str(value) for key, value in own.items()},
        }
        return ProcessSpec(
            name, python_command("services.config"), environment, self.backend.folder, rank=2
        )


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Broker and PostgreSQL with the topology; no config process yet."""
    async with backend(folder, databases=("config",)) as made:
        signer = _keys(folder / "keys")
        clients = {
            user: await made.client(user)
            for user in ("validator", "edge_sync", "billing", "platform", "operator")
        }
        pool = await asyncpg.create_pool(made.dsns["config"], min_size=1, max_size=3)
        built = Stage(made, pool, signer, clients, Ports(folder / "config-ports.json"))
        await _play(built)
        try:
            yield built
        finally:
            await built.stop_validator()
            await pool.close()


async def _play(stage: Stage) -> None:
    async def happened(message: Msg) -> None:
        if message.headers and "ce-causationid" in message.headers:
            stage.events.append((message.subject, json.loads(message.data), dict(message.headers)))

    async def highest(message: Msg) -> None:
        if stage.max_revision is None:
            stage.silences += 1
            return
        await message.respond(MaxRevision(revision=stage.max_revision).encode())

    await stage.clients["platform"].subscribe(s.EVENTS_ALL, cb=happened)
    await stage.clients["edge_sync"].subscribe(
        catalogue.RPC_EDGE_MAX_REVISION, queue="edge_sync", cb=highest
    )
    await stage.clients["platform"].flush()
    await stage.clients["edge_sync"].flush()
    stage.start_validator()


async def _take_questions(stage: Stage) -> None:
    pull = Pull(stage.clients["validator"], s.STREAM_JUDGING, s.DURABLE_VALIDATOR)
    async for batch in pull.batches():
        for delivery in batch:
            _note(stage, delivery)
            await pull.ack(delivery)


def _note(stage: Stage, delivery: Delivery) -> None:
    question = JudgeSubmission.model_validate_json(delivery.body)
    stage.questions[question.submission_id] = question
    stage.asked_at.setdefault(question.submission_id, delivery.stream_time.timestamp())


def _keys(folder: Path) -> Signer:
    now = datetime.now(UTC)
    operator, validator = Signer.generate(OPERATOR_KEY_ID), Signer.generate("validator-1")
    key = TrustedKey(
        purpose="validator",
        key_id="validator-1",
        public_key=validator.public_text(),
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=400),
    )
    trust = operator.sign(Purpose.TRUST, TrustDocument(serial=1, keys=[key], issued_at=now))
    write_private(folder / "operator.pub", operator.public_text() + "\n")
    write_private(folder / "trust.json", trust.encode().decode() + "\n")
    return validator


def name(kind: str = "d") -> str:
    """A domain that no other test has."""
    return f"{kind}-{new_id()[:8]}.example.com"
