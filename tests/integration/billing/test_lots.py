"""What is taken together, on a real JetStream; no billing process runs beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from services.billing.parking import Parking
from services.billing.workers import LotConsumer
from shared import subjects as s
from shared.messaging.cloudevents import Delivery
from shared.messaging.pull import Pull
from shared.observability.health import Health
from tests.integration.billing.harness import Stage, stage
from tests.support.waiting import until


@pytest.fixture
async def idle(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("lots")) as built:
        yield built


async def _send(staged: Stage, count: int, unsettled: int) -> None:
    """Returns when ``unsettled`` are delivered and not acked yet."""
    js = staged.clients["billing"].jetstream(timeout=5)
    for _ in range(count):
        await js.publish(s.USAGE_REQUEST, b"{}")

    async def delivered() -> bool:
        info = await topology.consumer_info(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS)
        return info.num_ack_pending == unsettled and not info.num_pending

    topology = (await staged.backend.client("topology")).jetstream(timeout=5)
    await until(delivered, f"{unsettled} are delivered")


async def test_what_comes_alone_is_taken_at_once_and_beside_another_lot_only_a_full_one(idle: Stage) -> None:
    lots: list[int] = []
    settled = asyncio.Event()

    async def take(deliveries: Sequence[Delivery]) -> None:
        lots.append(len(deliveries))
        await settled.wait()

    pull = Pull(idle.clients["billing"], s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS, batch=4)
    consumer = asyncio.create_task(LotConsumer(pull, take, Parking(idle.database), Health(), lots=2).run())
    await _send(idle, 1, unsettled=1)
    await until(lambda: lots == [1], "one is taken alone")
    await _send(idle, 3, unsettled=4)
    assert lots == [1], "three wait for the one that is under way"
    await _send(idle, 1, unsettled=5)
    await until(lambda: lots == [1, 4], "four are a full lot")
    await _send(idle, 1, unsettled=6)
    assert lots == [1, 4]
    settled.set()
    await until(lambda: lots == [1, 4, 1], "what waited is taken when nothing is under way")
    await _send(idle, 0, unsettled=0)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
