"""Past the dead-letter limit a consumer stops taking, says so, and loses nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from prometheus_client import REGISTRY

from shared import catalogue, subjects
from shared.contracts.commands import DisableHttps
from shared.errors import Malformed
from shared.messaging.cloudevents import outgoing
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.direct_get import get_batch
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from tests.support.cluster import LocalCluster
from tests.support.waiting import until

LIMIT = 3
SOURCE = subjects.STREAM_COMMANDS_BILLING
CONDITION = f"{SOURCE}/{subjects.DURABLE_BILLING_COMMANDS}"


class FaultyService:
    """A consumer of billing's commands whose handler has a bug until it is mended."""

    def __init__(self) -> None:
        self.fault: Exception | None = KeyError("a bug")
        self.handled: list[str] = []
        self.health = Health()

    async def handle(self, delivery: Delivery) -> None:
        if self.fault is not None:
            raise self.fault
        self.handled.append(delivery.id)


async def test_past_the_limit_the_consumer_stops_says_so_and_goes_on_once_it_is_mended(
    cluster: LocalCluster,
) -> None:
    service = FaultyService()
    client = await cluster.client("billing")
    sender = Publisher(await cluster.client("operator"))
    admin = (await cluster.client("topology")).jetstream(timeout=30)
    dead_letters = DeadLetters(Publisher(client), SOURCE, max_unexpected=LIMIT)
    pull = Pull(client, SOURCE, subjects.DURABLE_BILLING_COMMANDS)
    consumer = Consumer(pull, service.handle, dead_letters, service.health)
    ids = []
    for number in range(2 * LIMIT):
        body = DisableHttps(domain=f"d{number}.example", account="acme")
        message = outgoing(
            catalogue.CMD_HOUR_CLOSE, body, source="test", about="acme", at=datetime.now(UTC)
        )
        ids.append(message.id)
        await sender.publish(message)
    task = asyncio.create_task(consumer.run())
    try:
        await until(
            lambda: "takes no more" in service.health.missing.get(CONDITION, ""),
            "readiness says that the limit is reached",
        )
        assert _metric() == 1
        assert await _dead_ids(cluster) == ids[:LIMIT]
        info = await admin.consumer_info(SOURCE, subjects.DURABLE_BILLING_COMMANDS)
        assert info.num_ack_pending + (info.num_pending or 0) == LIMIT

        service.fault = None
        await until(lambda: service.handled == ids[LIMIT:], "the rest is handled")
        await until(lambda: not service.health.missing, "the service is ready")
        assert _metric() == 0
        assert await _dead_ids(cluster) == ids[:LIMIT]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_poison_from_outside_never_reaches_the_limit(cluster: LocalCluster) -> None:
    """Otherwise any sender could stop a service with a handful of malformed messages."""
    service = FaultyService()
    service.fault = Malformed("not a command")
    client = await cluster.client("billing")
    sender = Publisher(await cluster.client("operator"))
    before = len(await _dead_ids(cluster))
    dead_letters = DeadLetters(Publisher(client), SOURCE, max_unexpected=LIMIT)
    pull = Pull(client, SOURCE, subjects.DURABLE_BILLING_COMMANDS)
    task = asyncio.create_task(Consumer(pull, service.handle, dead_letters, service.health).run())
    try:
        for number in range(3 * LIMIT):
            body = DisableHttps(domain=f"p{number}.example", account="acme")
            message = outgoing(
                catalogue.CMD_HOUR_CLOSE, body, source="test", about="acme", at=datetime.now(UTC)
            )
            await sender.publish(message)

        async def all_dead() -> bool:
            return len(await _dead_ids(cluster)) == before + 3 * LIMIT

        await until(all_dead, "every malformed message is a dead letter")
        assert not service.health.missing
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _metric() -> float | None:
    return REGISTRY.get_sample_value("edgetls_dead_letter_limit_reached", {"source": SOURCE})


async def _dead_ids(cluster: LocalCluster) -> list[str]:
    client = await cluster.client("billing")
    letters = await get_batch(client, subjects.STREAM_DEAD, 1, 500, subjects.dead(SOURCE))
    return [letter.headers["ce-id"] for letter in letters]
