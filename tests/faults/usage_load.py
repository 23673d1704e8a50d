"""A million requests from fifty nodes, with everything that goes wrong on the way, and the senders
that repeat them until billing has them all."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nats.errors import Error as NatsError

from shared import catalogue
from shared.contracts.usage import HttpsRequest, UsageBatch, UsageCell
from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import current_minute
from tests.support.waiting import until

NODES = [f"load-{number:02}" for number in range(50)]
DOMAINS = [f"load-{number:03}.example.test" for number in range(100)]
ACCOUNTS = 10
BATCHES_PER_NODE = 40
CELLS_PER_BATCH = 15
REQUESTS_PER_CELL = 30
"""900,000 requests in batches."""
SINGLE_REQUESTS = 100_000
LATE_SHARE = 0.01
MALFORMED_SHARE = 0.001
REPEATED_SHARE = 0.1
WHOLE_LOAD_SECONDS = 180.0
"""A limit for all of it, which takes 30 s on two quiet cores."""
_PUBLISHED_TOGETHER = 200
_BROKER_AWAY = (NatsError, OSError, TimeoutError)


@dataclass
class UsageLoad:
    """``expected``: HTTPS requests by domain, to the last one; ``late``: cells and single requests
    that come long after their time."""

    chance: random.Random
    batches: dict[str, list[UsageBatch]] = field(default_factory=dict)
    single: list[bytes] = field(default_factory=list)
    malformed: list[bytes] = field(default_factory=list)
    expected: Counter[str] = field(default_factory=Counter)
    late: int = 0

    @classmethod
    def generate(cls, seed: int) -> UsageLoad:
        load = cls(random.Random(seed))
        for node in NODES:
            log = new_id()
            load.batches[node] = [
                load._make_batch(node, log, number) for number in range(BATCHES_PER_NODE)
            ]
        load.single = [load._make_request(number) for number in range(SINGLE_REQUESTS)]
        for number in range(int(SINGLE_REQUESTS * MALFORMED_SHARE)):
            body = {"id": f"bad-{number}", "source": "load", "time": "yesterday"}
            load.malformed.append(json.dumps(body).encode())
        return load

    def account(self, domain: str) -> str:
        return f"load-{DOMAINS.index(domain) % ACCOUNTS}"

    def all_batches(self) -> list[UsageBatch]:
        return [batch for batches in self.batches.values() for batch in batches]

    def _minutes_ago(self) -> int:
        """Return a time of the last hour, or of the last 34 days for what is late."""
        if self.chance.random() < LATE_SHARE:
            self.late += 1
            return self.chance.randrange(60, 34 * 1440)
        return self.chance.randrange(1, 60)

    def _make_batch(self, node: str, log: str, number: int) -> UsageBatch:
        cells = []
        for _ in range(CELLS_PER_BATCH):
            domain = self.chance.choice(DOMAINS)
            cells.append(
                UsageCell(
                    domain=domain,
                    minute=current_minute() - self._minutes_ago(),
                    https_requests=REQUESTS_PER_CELL,
                    https_bytes=REQUESTS_PER_CELL * 100,
                )
            )
            self.expected[domain] += REQUESTS_PER_CELL
        return UsageBatch(
            node=node,
            log=log,
            start=number * 1000,
            end=(number + 1) * 1000,
            read_to=BATCHES_PER_NODE * 1000,
            cells=cells,
            final=number == BATCHES_PER_NODE - 1,
        )

    def _make_request(self, number: int) -> bytes:
        domain = self.chance.choice(DOMAINS)
        self.expected[domain] += 1
        return HttpsRequest(
            id=f"{number:09}",
            source="load",
            time=datetime.now(UTC) - timedelta(minutes=self._minutes_ago()),
            domain=domain,
            bytes=100,
            status=200,
            node=self.chance.choice(NODES),
        ).encode()


@dataclass
class UsageSenders:
    """Send everything, some of it twice, in no order, until billing has it.

    ``sent``: messages that the broker has stored so far; ``broker_forgot`` is set once the broker
    lost its store.
    """

    harness: BillingHarness
    load: UsageLoad
    sent: int = 0
    broker_forgot: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def message_count(self) -> int:
        """How many messages there are at least."""
        return len(NODES) * BATCHES_PER_NODE + SINGLE_REQUESTS

    async def send_batches(self) -> None:
        """Send as the nodes do: what is not confirmed goes again."""
        waiting = self.load.all_batches()
        waiting += self.load.chance.sample(waiting, int(len(waiting) * REPEATED_SHARE))
        self.load.chance.shuffle(waiting)
        while waiting:
            queue = iter(waiting)
            await asyncio.gather(*(self._send_from(queue) for _ in range(16)))
            await asyncio.sleep(1)  # billing takes a moment; a node waits 5 s
            stored_to = await self._read_positions()
            waiting = [
                batch
                for batch in self.load.all_batches()
                if batch.end > stored_to.get(batch.log, 0)
            ]

    async def send_single_requests(self) -> None:
        """Send as a platform service that keeps what it sent: all of it goes again when the broker
        lost its store."""
        bodies = list(self.load.single)
        bodies += self.load.chance.sample(bodies, int(len(bodies) * REPEATED_SHARE))
        bodies += self.load.malformed
        self.load.chance.shuffle(bodies)
        await self._send_all(bodies)
        await self.broker_forgot.wait()
        await self._send_all(bodies)

    async def _send_from(self, queue: Iterator[UsageBatch]) -> None:
        js = self.harness.clients["billing"].jetstream(timeout=2)
        for batch in queue:
            subject, body = catalogue.USAGE_BATCH.for_node(batch.node), batch.encode()

            async def is_stored(subject: str = subject, body: bytes = body) -> bool:
                try:
                    await js.publish(subject, body)
                except _BROKER_AWAY:
                    return False
                return True

            await until(is_stored, "a batch is stored", every=0.1)
            self.sent += 1

    async def _send_all(self, bodies: list[bytes]) -> None:
        for start in range(0, len(bodies), _PUBLISHED_TOGETHER):
            together = bodies[start : start + _PUBLISHED_TOGETHER]
            await until(
                lambda together=together: self._are_stored(together),
                "an atomic batch of requests is stored",
                every=0.1,
            )
            self.sent += len(together)

    async def _are_stored(self, bodies: list[bytes]) -> bool:
        """Publish bodies as one atomic batch of JetStream; tell whether all were stored."""
        client = self.harness.clients["billing"]
        batch = new_id()
        try:
            for number, body in enumerate(bodies[:-1], start=1):
                headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                await client.publish(catalogue.USAGE_REQUEST, body, headers=headers)
            last = {
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(len(bodies)),
                "Nats-Batch-Commit": "1",
            }
            reply = await client.request(
                catalogue.USAGE_REQUEST, bodies[-1], timeout=3, headers=last
            )
        except _BROKER_AWAY:
            return False
        return bool(json.loads(reply.data).get("count") == len(bodies))

    async def _read_positions(self) -> dict[str, int]:
        """Return how far each log is stored, once the database answers."""
        positions: dict[str, int] = {}

        async def could_be_read() -> bool:
            try:
                rows = await self.harness.database.fetch(
                    "select log, stored_to from node_logs where node like 'load-%'"
                )
            except Exception:
                return False
            positions.update({row["log"]: row["stored_to"] for row in rows})
            return True

        await until(could_be_read, "the stored positions can be read", every=0.2)
        return positions
