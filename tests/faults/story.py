"""What goes on while processes are killed: uploads and requests; and what must be true
afterwards."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clients.platform import Platform as Client
from clients.platform import connect
from deploy.demo.visitors.handshakes import (
    HANDSHAKE_REFUSED,
    Endpoint,
    fetch_leaf,
    verifying_context,
)
from deploy.demo.visitors.http_requests import VisitorConnection
from deploy.demo.visitors.origin_server import ORIGIN_BODY, DemoOrigin
from deploy.embedded import nats
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared import subjects as s
from shared.contracts.domains import CommandSettled, Outcome
from tests.support.waiting import until

ACCOUNT = "faults"
PATIENCE = 60.0
_PAUSE = 0.015
_BETWEEN_UPLOADS = 0.1
_PER_CONNECTION = 500
"""nginx closes a connection after its thousandth request."""


@dataclass(frozen=True)
class Upload:
    """A submission that was stored. ``leaf``: SHA-256 of its certificate."""

    command_id: str
    domain: str
    leaf: str


@dataclass
class Visits:
    """Requests by node: ``answered`` by the origin through it, ``broken`` off on the way, ``wrong``
    answers."""

    answered: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered.total()


@dataclass
class Story:
    """Uploads and usage on one platform, on and off. ``since``: the event stream's sequence when it
    began."""

    platform: EmbeddedPlatform
    customer: Client
    domains: list[str]
    ca: DevCa
    since: int
    uploads: list[Upload] = field(default_factory=list)
    visits: Visits = field(default_factory=Visits)
    settled: Counter[str] = field(default_factory=Counter)
    began: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    )

    @classmethod
    @asynccontextmanager
    async def on(cls, platform: EmbeddedPlatform, domains: Iterable[str]) -> AsyncIterator[Story]:
        """Registers the domains and gives each its first certificate."""
        run = platform.run
        async with AsyncExitStack() as stack:
            seed, key = Path(run["credentials"]["platform"]), Path(run["submission_key"])
            customer = await stack.enter_async_context(
                await connect(run["nats_url"], seed, key, timeout=PATIENCE)
            )
            origin = await stack.enter_async_context(DemoOrigin())
            ca = DevCa.load(Path(run["trust_roots"]).parent)
            story = cls(platform, customer, list(domains), ca, await customer.last_event())
            for domain in story.domains:
                ordered = await customer.register(
                    domain, ACCOUNT, "video", f"http://127.0.0.1:{origin.port}"
                )
                assert (await customer.settled(ordered.command_id)).outcome is Outcome.APPLIED
                await story.live(await story.upload(domain))
            yield story

    @property
    def nodes(self) -> list[Endpoint]:
        return [Endpoint.parse(node["id"], node["https"]) for node in self.platform.run["nodes"]]

    async def upload(self, domain: str) -> Upload:
        """Returns when it is stored."""
        pair = CertificatePair(*self.ca.issue([domain], "ecdsa"))
        upload = Upload(f"upload-{secrets.token_hex(8)}", domain, pair.leaf)
        await self.customer.submit(
            domain, ACCOUNT, pair.chain, pair.key, command_id=upload.command_id
        )
        self.uploads.append(upload)
        return upload

    async def end_of(self, upload: Upload) -> CommandSettled:
        settled = await self.customer.settled(upload.command_id, limit=PATIENCE)
        if settled.outcome is Outcome.APPLIED:
            self.settled[upload.domain] += 1
        return settled

    async def live(self, upload: Upload) -> None:
        """Applied, and served by every node."""
        settled = await self.end_of(upload)
        assert settled.outcome is Outcome.APPLIED, (
            f"{upload} was {settled.outcome}: {settled.codes}"
        )
        await self.customer.converged(upload.domain, settled.revision or 0, limit=PATIENCE)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Uploads to every domain and requests to every node, one after the other each; ended in
        order: what was begun is finished."""
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
        """Requests alone."""
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
        """Alternately one upload, and two at once, of which the first may be superseded."""
        for number in itertools.count():
            uploads = [await self.upload(domain) for _ in range(1 + number % 2)]
            for upload in uploads:
                await self.end_of(upload)
            if over.is_set():
                return
            await asyncio.sleep(_BETWEEN_UPLOADS)

    async def _keep_visiting(self, node: Endpoint, domain: str, over: asyncio.Event) -> None:
        context = verifying_context(Path(self.platform.run["trust_roots"]))
        while not over.is_set():
            visitor = None
            try:
                visitor = await VisitorConnection.open(node, domain, context)
                for _ in range(_PER_CONNECTION):
                    answer = await visitor.get("/file")
                    self.visits.answered[node.node] += 1
                    if answer.status != 200 or answer.body != ORIGIN_BODY:
                        self.visits.wrong.append(
                            f"{node.node} answered {answer.status} for {domain}"
                        )
                    await asyncio.sleep(_PAUSE)
                    if over.is_set():
                        break
            except (*HANDSHAKE_REFUSED, OSError, TimeoutError) as error:
                self.visits.broken[node.node] += 1
                self.visits.wrong += (
                    []
                    if isinstance(error, (*HANDSHAKE_REFUSED, OSError))
                    else [f"{node.node} hung"]
                )
                await asyncio.sleep(_PAUSE)
            finally:
                if visitor is not None:
                    visitor.close()

    async def requests(self, more: int) -> None:
        """Until so many more were answered: the clock of this story."""
        goal = self.visits.total + more
        await until(
            lambda: self.visits.total >= goal, f"{more} more requests are answered", limit=PATIENCE
        )

    async def each_replaced(self) -> None:
        """Until every domain had one more upload applied."""
        before = self.settled.copy()
        await until(
            lambda: all(self.settled[domain] > before[domain] for domain in self.domains),
            "every domain gets another certificate",
            limit=PATIENCE,
        )

    # What must be true when all is quiet

    async def check(self) -> str:
        """Everything that the story promises; a summary for people."""
        served = await self._settled_once()
        await self._served_everywhere(served)
        logged, billed = await self._billed_is_logged()
        await self._nothing_dead()
        assert not self.visits.wrong, self.visits.wrong[:3]
        return (
            f"{len(self.uploads)} uploads, {self.visits.total} answers, {logged} logged, "
            f"{billed} billed"
        )

    async def _settled_once(self) -> dict[str, str]:
        """Every upload ended exactly once; the last applied leaf by domain."""
        ends: dict[str, list[CommandSettled]] = {}

        async def all_ended() -> bool:
            ends.clear()
            async for event in self.customer.events(
                self.since + 1, follow=False, subject=catalogue.EVENT_COMMAND_SETTLED
            ):
                settled = CommandSettled.model_validate(event.body)
                ends.setdefault(settled.command_id, []).append(settled)
            return all(upload.command_id in ends for upload in self.uploads)

        await until(all_ended, "every upload has an end in EVENTS", limit=PATIENCE, every=0.2)
        last: dict[str, tuple[int, str]] = {}
        for upload in self.uploads:
            end, *more = ends[upload.command_id]
            assert not more, f"{upload} ended more than once: {[end, *more]}"
            assert end.outcome in (Outcome.APPLIED, Outcome.SUPERSEDED), (
                f"{upload} was {end.outcome}: {end.codes}"
            )
            if end.outcome is Outcome.APPLIED:
                last[upload.domain] = max(
                    last.get(upload.domain, (0, "")), (end.revision or 0, upload.leaf)
                )
        for domain in self.domains:
            await self.customer.converged(domain, last[domain][0], limit=PATIENCE)
        return {domain: leaf for domain, (_, leaf) in last.items()}

    async def _served_everywhere(self, expected: dict[str, str]) -> None:
        context = verifying_context(Path(self.platform.run["trust_roots"]))
        for node in self.nodes:
            served = {domain: await fetch_leaf(node, domain, context) for domain in self.domains}
            assert served == expected, f"{node.node} does not serve the last certificates"

    async def _billed_is_logged(self) -> tuple[int, int]:
        """Every log is in to its last byte, and every HTTPS line of it is billed, once."""
        await until(self._logs_are_in, "every usage log is confirmed to its end", limit=PATIENCE)
        logged = self.logged().total()
        end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        rows = await self.customer.usage(self.began, end, by="account", account=ACCOUNT)
        billed = sum(row.https_requests for row in rows)
        assert billed == logged, f"{billed} requests are billed, {logged} are logged"
        return logged, billed

    async def _logs_are_in(self) -> bool:
        stored = {(log.node, log.log): log for log in await self.customer.logs()}
        return all(
            (log := stored.get((node.node, path.stem))) is not None
            and log.stored_to == log.read_to == path.stat().st_size
            and not log.held
            for node in self.nodes
            for path in self._logs(node.node)
        )

    def logged(self) -> Counter[str]:
        """HTTPS lines in the usage logs, by node."""
        found: Counter[str] = Counter()
        for node in self.nodes:
            for path in self._logs(node.node):
                lines = path.read_bytes().splitlines()
                found[node.node] += sum(line.split(b" ")[1:2] == [b"https"] for line in lines)
        return found

    def _logs(self, node: str) -> list[Path]:
        folder = self.platform.data / "nodes" / node / "usage"
        return [path for path in folder.glob("*.log") if not path.is_symlink()]

    async def _nothing_dead(self) -> None:
        run = self.platform.run
        topology = await nats.login(
            run["nats_url"], "topology", Path(run["credentials"]["topology"])
        )
        try:
            info = await topology.jetstream(timeout=5).stream_info(s.STREAM_DEAD)
            assert info.state.messages == 0, f"{info.state.messages} dead letters"
        finally:
            await topology.close()
