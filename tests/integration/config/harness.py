"""Config in processes; the test plays platform, operator, edge_sync and the validator."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
from nats.aio.msg import Msg

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
)
from shared.contracts.domains import CommandSettled, DomainChanged, DomainView, Origin
from shared.contracts.edge import Bundle
from shared.contracts.findings import Code, finding
from shared.contracts.judging import JudgedPair, JudgeSubmission, Verdict
from shared.contracts.queries import GetBundle, MaxRevision, ShowDomain
from shared.crypto.signing import Signer
from shared.ids import new_id
from shared.messaging.nats_client import NatsClient
from shared.messaging.pull import Pull
from tests.support.cluster import LocalCluster
from tests.support.factories import ACCOUNT, sign_attestation, unique_name
from tests.support.service_harness import ServiceHarness
from tests.support.waiting import until

JUDGING_SECONDS = 4
"""Short enough to wait for, long enough for a verdict on a busy machine."""
SEALED_BOX = base64.b64encode(b"sealed canary").decode()
"""In every submitted and judged pair, as its sealed key."""


class ConfigHarness(ServiceHarness):
    """Config in processes. Domains get new names in each test.

    ``events``: (subject, body, headers) of what config published; ``questions``: what the validator
    is asked, by submission. ``max_revision``: what edge_sync answers, None while it is silent;
    ``silences``: how often it was asked in vain.
    """

    service = "config"
    users = ("validator", "edge_sync", "billing", "platform", "operator")

    def __init__(
        self,
        cluster: LocalCluster,
        database: asyncpg.Pool[asyncpg.Record],
        clients: dict[str, NatsClient],
    ) -> None:
        super().__init__(cluster, database, clients)
        self.events: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.questions: dict[str, JudgeSubmission] = {}
        self.max_revision: int | None = 0
        self.silences = 0
        self._validator: asyncio.Task[None] | None = None

    def default_settings(self) -> dict[str, Any]:
        return {"JUDGING_SECONDS": JUDGING_SECONDS}

    # The platform

    async def send(
        self, subject: str, body: Contract, *, id: str | None = None, user: str = "platform"
    ) -> str:
        """Publish a message, as the platform by default; return its id."""
        return await self.publish(user, subject, body, id=id)

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
        pair = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=SEALED_BOX))
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
        question = await self.until_asked(submission)
        await self.verdict(question, pairs=[self.pair(domain, account, **pair)])
        return await self.settled(submission)

    # The validator

    def start_validator(self) -> None:
        """Take questions from now on; the test gives the verdicts."""
        self._validator = asyncio.create_task(self._take_questions())

    async def stop_validator(self) -> None:
        """Take no questions until the next start."""
        if self._validator is not None:
            self._validator.cancel()
            await asyncio.gather(self._validator, return_exceptions=True)

    async def _take_questions(self) -> None:
        pull = Pull(self.clients["validator"], s.STREAM_JUDGING, s.DURABLE_VALIDATOR)
        async for batch in pull.batches():
            for delivery in batch:
                question = JudgeSubmission.model_validate_json(delivery.body)
                self.questions[question.submission_id] = question
                await pull.ack(delivery)

    async def until_asked(self, submission: str) -> JudgeSubmission:
        """Wait until the validator is asked to judge a submission."""
        await until(lambda: submission in self.questions, f"{submission} is to be judged")
        return self.questions[submission]

    async def verdict(
        self,
        question: JudgeSubmission,
        *,
        pairs: list[JudgedPair] | None = None,
        codes: tuple[Code, ...] = (),
    ) -> None:
        """Give a verdict, which accepts when there are pairs."""
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
        """Return a pair as the validator makes it. ``name`` tells its leaf from others."""
        now = datetime.now(UTC)
        identity = name or new_id()
        body = base64.b64encode(identity.encode()).decode()
        chain = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        leaf = sha256(identity.encode()).hexdigest()
        return JudgedPair(
            pair_id=f"pair-{identity}",
            chain=chain,
            leaf_fingerprint=leaf,
            subject=f"CN={domain}",
            sans=[domain],
            issuer="CN=Test",
            key_type="ECDSA",
            key_bits=256,
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=days, minutes=1),
            sealed_key=SealedKey(epoch=epoch, box=SEALED_BOX),
            attestation=sign_attestation(
                signer or self.cluster.keys.validator,
                domain=domain,
                pair_id=f"pair-{identity}",
                leaf=leaf,
                chain=chain,
                changes={"account": account},
            ),
        )

    # What they see

    async def ask(
        self, query: Query[QuestionT, AnswerT], question: QuestionT, user: str = "platform"
    ) -> AnswerT:
        return await self.ask_as(user, query, question)

    async def show(self, domain: str, account: str | None = ACCOUNT) -> DomainView:
        return await self.ask(catalogue.RPC_DOMAIN_SHOW, ShowDomain(domain=domain, account=account))

    async def bundle(self, domain: str) -> Bundle:
        answer = await self.ask(catalogue.RPC_BUNDLE_GET, GetBundle(domain=domain), "edge_sync")
        assert answer.payload is not None
        return Bundle.model_validate_json(answer.payload)

    def events_of(self, subject: str, cause: str) -> list[dict[str, Any]]:
        """Return the bodies of the events on a subject that one message caused."""
        found = []
        for event_subject, body, headers in self.events:
            if event_subject == subject and headers["ce-causationid"] == cause:
                found.append(body)
        return found

    async def settled(self, command: str) -> CommandSettled:
        found = await until(
            lambda: self.events_of(catalogue.EVENT_COMMAND_SETTLED, command),
            f"{command} is settled",
            every=0.002,
        )
        return CommandSettled.model_validate(found[0])

    def changed(self, command: str) -> DomainChanged:
        (body,) = self.events_of(catalogue.EVENT_DOMAIN_CHANGED, command)
        return DomainChanged.model_validate(body)

    def changed_all(self, cause: str) -> dict[str, str]:
        """Return the change by domain of a message that concerns many."""
        return {
            body["domain"]: body["change"]
            for body in self.events_of(catalogue.EVENT_DOMAIN_CHANGED, cause)
        }

    def suspend(self, name: str) -> None:
        """Stop a process with SIGSTOP: it keeps its connections and its locks."""
        self.replicas[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.replicas[name].send_signal(signal.SIGCONT)

    async def listen(self) -> None:
        """Keep events, and answer as edge_sync, from now on."""
        edge_sync = self.clients["edge_sync"]
        await self.clients["platform"].subscribe(s.EVENTS_ALL, cb=self._keep_event)
        await edge_sync.subscribe(
            catalogue.RPC_EDGE_MAX_REVISION, queue="edge_sync", cb=self._answer_max_revision
        )
        await self.clients["platform"].flush()
        await edge_sync.flush()

    async def _keep_event(self, message: Msg) -> None:
        if message.headers and "ce-causationid" in message.headers:
            body = json.loads(message.data)
            self.events.append((message.subject, body, dict(message.headers)))

    async def _answer_max_revision(self, message: Msg) -> None:
        if self.max_revision is None:
            self.silences += 1
            return
        await message.respond(MaxRevision(revision=self.max_revision).encode())


@asynccontextmanager
async def config_harness(folder: Path) -> AsyncIterator[ConfigHarness]:
    """Start a broker and a PostgreSQL, without a config process. The validator takes questions."""
    async with ConfigHarness.open(folder) as harness:
        await harness.listen()
        harness.start_validator()
        try:
            yield harness
        finally:
            await harness.stop_validator()


def domain_name(kind: str = "d") -> str:
    """Return a domain that no other test has."""
    return f"{unique_name(kind)}.example.com"
