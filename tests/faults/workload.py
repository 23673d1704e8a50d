"""Uploads and requests on a running platform, and the checks of what must be true afterwards."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from clients.platform import Platform as Client
from deploy.embedded import nats
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared import subjects as s
from shared.contracts.domains import CommandSettled, Outcome
from tests.support.browser import (
    ORIGIN_BODY,
    REFUSALS,
    HttpConnection,
    NodeAddress,
    OriginServer,
    served_leaf,
    trusting_context,
)
from tests.support.customer import connected_customer, registered
from tests.support.pki import issue_pair
from tests.support.waiting import LIMIT_SECONDS, until

_SECONDS_BETWEEN_REQUESTS: Final = 0.015
_SECONDS_BETWEEN_UPLOADS: Final = 0.1
_REQUESTS_PER_CONNECTION: Final = 500
"""nginx closes a connection after its thousandth request."""


@dataclass(frozen=True)
class CertificateUpload:
    """A submission that the broker has stored. ``leaf``: SHA-256 of its certificate."""

    command_id: str
    domain: str
    leaf: str


@dataclass
class VisitCounts:
    """By node, of this workload alone: requests that were ``answered`` by the origin through it,
    connections that it ``broke`` off; ``faults``: wrong answers, a sentence each."""

    answered: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered.total()


@dataclass
class Workload:
    """Uploads and requests for domains and an account that no other workload has.

    So it may share a platform with others, and what went wrong in one of them shows in that one
    alone. ``first_event``: the sequence in EVENTS before it began; ``applied``: applied uploads by
    domain.
    """

    platform: EmbeddedPlatform
    customer: Client
    account: str
    domains: list[str]
    ca: DevCa
    first_event: int
    uploads: list[CertificateUpload] = field(default_factory=list)
    visits: VisitCounts = field(default_factory=VisitCounts)
    applied: Counter[str] = field(default_factory=Counter)
    first_hour: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    )

    @classmethod
    @asynccontextmanager
    async def prepare(
        cls, platform: EmbeddedPlatform, domain_count: int
    ) -> AsyncIterator[Workload]:
        """Register new domains and give each its first certificate."""
        tag = secrets.token_hex(4)
        domains = [f"www.{number}.{tag}.test" for number in range(domain_count)]
        async with AsyncExitStack() as stack:
            customer = await stack.enter_async_context(connected_customer(platform.run))
            origin = await stack.enter_async_context(OriginServer())
            ca = DevCa.load(Path(platform.run["trust_roots"]).parent)
            workload = cls(
                platform, customer, f"faults-{tag}", domains, ca, await customer.last_event()
            )
            for domain in domains:
                await registered(customer, domain, workload.account, origin.port)
                await workload.upload_until_live(domain)
            yield workload

    @property
    def nodes(self) -> list[NodeAddress]:
        return [NodeAddress.parse(node["id"], node["https"]) for node in self.platform.run["nodes"]]

    async def upload(self, domain: str) -> CertificateUpload:
        """Submit a new certificate; return when the broker has stored it."""
        pair = issue_pair(self.ca, domain)
        upload = CertificateUpload(f"upload-{secrets.token_hex(8)}", domain, pair.leaf)
        await self.customer.submit(
            domain, self.account, pair.chain, pair.key, command_id=upload.command_id
        )
        self.uploads.append(upload)
        return upload

    async def end_of(self, upload: CertificateUpload) -> CommandSettled:
        """Wait until a submission has ended, and count it where it was applied."""
        end = await self.customer.settled(upload.command_id, limit=LIMIT_SECONDS)
        if end.outcome is Outcome.APPLIED:
            self.applied[upload.domain] += 1
        return end

    async def upload_until_live(self, domain: str) -> None:
        """Submit a new certificate and wait until every node serves it."""
        upload = await self.upload(domain)
        end = await self.end_of(upload)
        assert end.outcome is Outcome.APPLIED, f"{upload} was {end.outcome}: {end.codes}"
        await self.customer.converged(domain, end.revision or 0, limit=LIMIT_SECONDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Upload to every domain and request from every node, one after the other each.

        At the exit what was begun is finished.
        """
        over = asyncio.Event()
        async with self.visiting(), asyncio.TaskGroup() as group:
            for domain in self.domains:
                group.create_task(self._keep_uploading(domain, over))
            try:
                yield
            finally:
                over.set()

    @asynccontextmanager
    async def visiting(self) -> AsyncIterator[None]:
        """Request from every node, without uploads."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                for domain in self.domains:
                    group.create_task(self._keep_visiting(node, domain, over))
            try:
                yield
            finally:
                over.set()

    async def _keep_uploading(self, domain: str, over: asyncio.Event) -> None:
        """Upload one, then two at once of which the first may be superseded, and so on."""
        for number in itertools.count():
            uploads = [await self.upload(domain) for _ in range(1 + number % 2)]
            for upload in uploads:
                await self.end_of(upload)
            if over.is_set():
                return
            await asyncio.sleep(_SECONDS_BETWEEN_UPLOADS)

    async def _keep_visiting(self, node: NodeAddress, domain: str, over: asyncio.Event) -> None:
        context = trusting_context(Path(self.platform.run["trust_roots"]))
        while not over.is_set():
            try:
                async with await HttpConnection.connect(
                    node.host, node.port, domain, context
                ) as visitor:
                    await self._request_often(visitor, node, domain, over)
            except TimeoutError:
                self.visits.broken[node.node] += 1
                self.visits.faults.append(f"{node.node} did not answer")
            except (*REFUSALS, OSError):
                self.visits.broken[node.node] += 1
            await asyncio.sleep(_SECONDS_BETWEEN_REQUESTS)

    async def _request_often(
        self, visitor: HttpConnection, node: NodeAddress, domain: str, over: asyncio.Event
    ) -> None:
        for _ in range(_REQUESTS_PER_CONNECTION):
            response = await visitor.get(domain, "/file")
            self.visits.answered[node.node] += 1
            if (response.status, response.body) != (200, ORIGIN_BODY):
                self.visits.faults.append(f"{node.node} answered {response.status} for {domain}")
            if over.is_set():
                return
            await asyncio.sleep(_SECONDS_BETWEEN_REQUESTS)

    async def until_answered(self, more: int) -> None:
        """Wait until so many more requests were answered: the clock of the fault tests."""
        goal = self.visits.total + more
        await until(lambda: self.visits.total >= goal, f"{more} more requests are answered")

    async def until_each_replaced(self) -> None:
        """Wait until every domain had one more upload applied."""
        before = self.applied.copy()
        await until(
            lambda: all(self.applied[domain] > before[domain] for domain in self.domains),
            "every domain gets another certificate",
        )

    async def check_everything(self) -> str:
        """Assert all that must be true once nothing goes on any more; return a summary to print."""
        last_leaves = await self._every_upload_ended_once()
        await self._every_node_serves(last_leaves)
        logged, billed = await self._what_is_logged_is_billed()
        await assert_no_dead_letters(self.platform)
        assert not self.visits.faults, self.visits.faults[:3]
        return (
            f"{len(self.uploads)} uploads, {self.visits.total} answers, {logged} logged, "
            f"{billed} billed"
        )

    async def _every_upload_ended_once(self) -> dict[str, str]:
        """Return the last applied leaf by domain, once it is live everywhere."""
        ends: dict[str, list[CommandSettled]] = {}

        async def all_ended() -> bool:
            ends.clear()
            async for event in self.customer.events(
                self.first_event + 1, follow=False, subject=catalogue.EVENT_COMMAND_SETTLED
            ):
                settled = CommandSettled.model_validate(event.body)
                ends.setdefault(settled.command_id, []).append(settled)
            return all(upload.command_id in ends for upload in self.uploads)

        await until(all_ended, "every upload has an end in EVENTS", every=0.2)
        last: dict[str, tuple[int, str]] = {}
        for upload in self.uploads:
            end, *more = ends[upload.command_id]
            assert not more, f"{upload} ended more than once: {[end, *more]}"
            assert end.outcome in (Outcome.APPLIED, Outcome.SUPERSEDED), (
                f"{upload} was {end.outcome}: {end.codes}"
            )
            if end.outcome is Outcome.APPLIED:
                applied = (end.revision or 0, upload.leaf)
                last[upload.domain] = max(last.get(upload.domain, (0, "")), applied)
        leaves = {}
        for domain in self.domains:
            revision, leaves[domain] = last[domain]
            await self.customer.converged(domain, revision, limit=LIMIT_SECONDS)
        return leaves

    async def _every_node_serves(self, expected: dict[str, str]) -> None:
        context = trusting_context(Path(self.platform.run["trust_roots"]))
        for node in self.nodes:
            for domain, leaf in expected.items():
                assert await served_leaf(node, domain, context) == leaf, (
                    f"{node.node} does not serve the last certificate of {domain}"
                )

    async def _what_is_logged_is_billed(self) -> tuple[int, int]:
        """Wait until every log is in to its last byte; every HTTPS line is billed once."""
        await until(self._logs_are_in, "every usage log is confirmed to its end", every=0.1)
        logged = self.count_logged().total()
        next_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(
            hours=1
        )
        rows = await self.customer.usage(
            self.first_hour, next_hour, by="account", account=self.account
        )
        billed = sum(row.https_requests for row in rows)
        assert billed == logged, f"{billed} requests are billed, {logged} are logged"
        return logged, billed

    async def _logs_are_in(self) -> bool:
        stored = {(log.node, log.log): log for log in await self.customer.logs()}
        for node in self.nodes:
            for path in self._usage_logs(node.node):
                log = stored.get((node.node, path.stem))
                if log is None or log.held:
                    return False
                if not log.stored_to == log.read_to == path.stat().st_size:
                    return False
        return True

    def count_logged(self) -> Counter[str]:
        """Return how many HTTPS requests for these domains are in the usage logs, by node."""
        own = {domain.encode() for domain in self.domains}
        found: Counter[str] = Counter()
        for node in self.nodes:
            for path in self._usage_logs(node.node):
                for line in path.read_bytes().splitlines():
                    # time, scheme, domain, status, bytes
                    scheme_and_domain = line.split(b" ")[1:3]
                    if scheme_and_domain[:1] == [b"https"] and scheme_and_domain[1] in own:
                        found[node.node] += 1
        return found

    def _usage_logs(self, node: str) -> Sequence[Path]:
        folder = self.platform.data / "nodes" / node / "usage"
        return [path for path in folder.glob("*.log") if not path.is_symlink()]


async def assert_no_dead_letters(platform: EmbeddedPlatform) -> None:
    """Assert that no message of this platform was put aside as poison."""
    count = await count_dead_letters(platform)
    assert count == 0, f"{count} dead letters"


async def count_dead_letters(platform: EmbeddedPlatform) -> int:
    """Return how many messages the stream DEAD holds."""
    run = platform.run
    topology = await nats.login(run["nats_url"], "topology", Path(run["credentials"]["topology"]))
    try:
        info = await topology.jetstream(timeout=30).stream_info(s.STREAM_DEAD)
        return int(info.state.messages)
    finally:
        await topology.close()
