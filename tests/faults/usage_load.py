"""A million requests from fifty nodes, some late, repeated or malformed, and their senders."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nats.errors import Error as NatsError

from shared import catalogue
from shared.contracts.usage import HttpsRequest, UsageBatch, UsageCell
from shared.ids import new_id
from tests.integration.billing.harness import Stage, current_minute

NODES = [f"load-{number:02}" for number in range(50)]
DOMAINS = [f"load-{number:03}.example.test" for number in range(100)]
ACCOUNTS = 10
BATCHES, CELLS, EACH = 40, 15, 30
"""Batches a node, cells a batch, requests a cell: 900,000 requests."""
SINGLE = 100_000
LATE, MALFORMED, TWICE = 0.01, 0.001, 0.1
_TOGETHER = 200
_AWAY = (NatsError, OSError, TimeoutError)


@dataclass
class Load:
    """``expected``: HTTPS requests by domain, to the last one."""

    chance: random.Random
    batches: dict[str, list[UsageBatch]] = field(default_factory=dict)
    single: list[bytes] = field(default_factory=list)
    malformed: list[bytes] = field(default_factory=list)
    expected: Counter[str] = field(default_factory=Counter)
    late: int = 0

    @classmethod
    def made(cls, seed: int) -> Load:
        load = cls(random.Random(seed))
        for node in NODES:
            load.batches[node] = [load._batch(node, new_id(), number) for number in range(BATCHES)]
            log = load.batches[node][0].log
            load.batches[node] = [
                batch.model_copy(update={"log": log}) for batch in load.batches[node]
            ]
        load.single = [load._event(number) for number in range(SINGLE)]
        load.malformed = [
            json.dumps({"id": f"bad-{number}", "source": "load", "time": "yesterday"}).encode()
            for number in range(int(SINGLE * MALFORMED))
        ]
        return load

    def account(self, domain: str) -> str:
        return f"load-{DOMAINS.index(domain) % ACCOUNTS}"

    def minutes_ago(self) -> int:
        """Return minutes of the last hour; one of a hundred is late by up to 34 days."""
        if self.chance.random() < LATE:
            self.late += 1
            return self.chance.randrange(60, 34 * 1440)
        return self.chance.randrange(1, 60)

    def _batch(self, node: str, log: str, number: int) -> UsageBatch:
        cells = []
        for _ in range(CELLS):
            domain = self.chance.choice(DOMAINS)
            cells.append(
                UsageCell(
                    domain=domain,
                    minute=current_minute() - self.minutes_ago(),
                    https_requests=EACH,
                    https_bytes=EACH * 100,
                )
            )
            self.expected[domain] += EACH
        return UsageBatch(
            node=node,
            log=log,
            start=number * 1000,
            end=(number + 1) * 1000,
            read_to=BATCHES * 1000,
            cells=cells,
            final=number == BATCHES - 1,
        )

    def _event(self, number: int) -> bytes:
        domain = self.chance.choice(DOMAINS)
        self.expected[domain] += 1
        return HttpsRequest(
            id=f"{number:09}",
            source="load",
            time=datetime.now(UTC) - timedelta(minutes=self.minutes_ago()),
            domain=domain,
            bytes=100,
            status=200,
            node=self.chance.choice(NODES),
        ).encode()


@dataclass
class Senders:
    """Send everything, some of it twice, in random order, until billing has it.

    ``sent``: messages stored so far."""

    stage: Stage
    load: Load
    sent: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def messages(self) -> int:
        return len(NODES) * BATCHES + SINGLE

    async def nodes(self) -> None:
        """Send batches as nodes do: again, until they are confirmed."""
        waiting = [batch for batches in self.load.batches.values() for batch in batches]
        waiting += self.load.chance.sample(waiting, int(len(waiting) * TWICE))
        self.load.chance.shuffle(waiting)
        while waiting:
            queue = iter(waiting)
            await asyncio.gather(*(self._node(queue) for _ in range(16)))
            await asyncio.sleep(1)
            stored = await self._stored()
            waiting = [
                batch
                for batches in self.load.batches.values()
                for batch in batches
                if batch.end > stored.get(batch.log, 0)
            ]

    async def single(self) -> None:
        """Send single events as a platform service that keeps them: when the broker lost its store,
        it sends all of them again."""
        sound = list(enumerate(self.load.single))
        sound += self.load.chance.sample(sound, int(len(sound) * TWICE))
        bodies = [body for _, body in sound] + self.load.malformed
        self.load.chance.shuffle(bodies)
        for at in range(0, len(bodies), _TOGETHER):
            await self._together(bodies[at : at + _TOGETHER])
        await self.lost.wait()
        for at in range(0, len(bodies), _TOGETHER):
            await self._together(bodies[at : at + _TOGETHER])

    async def _node(self, queue: object) -> None:
        for batch in queue:  # type: ignore[attr-defined]
            await self._until_stored(catalogue.USAGE_BATCH.for_node(batch.node), batch.encode())
            self.sent += 1

    async def _until_stored(self, subject: str, body: bytes) -> None:
        js = self.stage.clients["billing"].jetstream(timeout=2)
        while True:
            try:
                await js.publish(subject, body)
                return
            except _AWAY:
                await asyncio.sleep(0.1)

    async def _together(self, bodies: list[bytes]) -> None:
        client = self.stage.clients["billing"]
        while True:
            try:
                batch = new_id()
                for number, body in enumerate(bodies[:-1], start=1):
                    headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                    await client.publish(catalogue.USAGE_REQUEST, body, headers=headers)
                last = {
                    "Nats-Batch-Id": batch,
                    "Nats-Batch-Sequence": str(len(bodies)),
                    "Nats-Batch-Commit": "1",
                }
                answer = json.loads(
                    (
                        await client.request(
                            catalogue.USAGE_REQUEST, bodies[-1], timeout=3, headers=last
                        )
                    ).data
                )
                if answer.get("count") == len(bodies):
                    self.sent += len(bodies)
                    return
            except _AWAY:
                pass
            await asyncio.sleep(0.1)

    async def _stored(self) -> dict[str, int]:
        while True:
            try:
                rows = await self.stage.database.fetch(
                    "select log, stored_to from node_logs where node like 'load-%'"
                )
                return {row["log"]: row["stored_to"] for row in rows}
            except Exception:
                await asyncio.sleep(0.2)
