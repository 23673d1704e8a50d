"""How batches form, on a real JetStream without a billing process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import chain, repeat

import pytest

from services.billing.transport.batch_consumers import BatchConsumer
from services.billing.usecases.quarantine import Quarantine
from shared import catalogue
from shared import subjects as s
from shared.messaging.delivery import Delivery
from shared.messaging.pull import Pull
from shared.observability.health import Health
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.support.waiting import until


@pytest.fixture
async def idle(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    async with billing_harness(tmp_path_factory.mktemp("batches")) as harness:
        yield harness


async def _send(harness: BillingHarness, count: int, unsettled: int) -> None:
    """Send messages, and wait until ``unsettled`` are delivered and not acked yet."""
    js = harness.clients["billing"].jetstream(timeout=5)
    for _ in range(count):
        await js.publish(catalogue.USAGE_REQUEST, b"{}")

    async def delivered() -> bool:
        info = await topology.consumer_info(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS)
        return info.num_ack_pending == unsettled and not info.num_pending

    topology = (await harness.cluster.client("topology")).jetstream(timeout=5)
    await until(delivered, f"{unsettled} are delivered")


async def test_a_single_message_is_handled_at_once_and_beside_another_batch_only_a_full_one(
    idle: BillingHarness,
) -> None:
    batches: list[int] = []
    settled = asyncio.Event()

    async def take(deliveries: Sequence[Delivery]) -> None:
        batches.append(len(deliveries))
        await settled.wait()

    pull = Pull(idle.clients["billing"], s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS, batch=4)
    consumer = asyncio.create_task(
        BatchConsumer(pull, take, Quarantine(idle.database), Health(), concurrency=2).run()
    )
    await _send(idle, 1, unsettled=1)
    await until(lambda: batches == [1], "one is taken alone")
    await _send(idle, 3, unsettled=4)
    assert batches == [1], "three wait for the one that is under way"
    await _send(idle, 1, unsettled=5)
    await until(lambda: batches == [1, 4], "four are a full batch")
    await _send(idle, 1, unsettled=6)
    assert batches == [1, 4]
    settled.set()
    await until(
        lambda: batches == [1, 4, 1], "a message that waited is taken when nothing is under way"
    )
    await _send(idle, 0, unsettled=0)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)


async def test_two_consumers_that_ask_are_served_one_after_the_other_not_in_turns(
    idle: BillingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an event and its duplicate are mostly in one batch."""
    ranks = chain(
        (0, 1), repeat(9)
    )  # of requests as they are made: the first goes before the second
    monkeypatch.setattr("shared.messaging.pull.random.randrange", lambda _below: next(ranks))
    taken: dict[str, list[int]] = {"first": [], "second": []}

    async def empty(name: str) -> None:
        client = await idle.cluster.client("billing")
        pull = Pull(client, s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS, batch=4)
        async for deliveries in pull.batches():
            taken[name] += [delivery.sequence for delivery in deliveries]

    topology = (await idle.cluster.client("topology")).jetstream(timeout=5)

    async def asked(times: int) -> bool:
        info = await topology.consumer_info(s.STREAM_USAGE, s.DURABLE_BILLING_REQUESTS)
        return info.num_waiting == times

    tasks = []
    for times, name in enumerate(taken, start=1):
        tasks.append(asyncio.create_task(empty(name)))
        await until(partial(asked, times), f"the {name} has asked")
    await _send(idle, 8, unsettled=8)
    await until(lambda: sum(map(len, taken.values())) == 8, "both have theirs")
    assert taken == {"first": [1, 2, 3, 4], "second": [5, 6, 7, 8]}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
