from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from services.billing.store import quarantine as store
from services.billing.transport.batch_consumers import (
    MAX_BATCH_BYTES,
    BatchConsumer,
    split_batches,
)
from services.billing.usecases.quarantine import Quarantine
from shared.errors import DatabaseAway
from shared.messaging.delivery import Delivery
from shared.observability.health import Health
from tests.support.waiting import until

NAME = "USAGE/requests"
LIMIT = 3


def _message(number: int, size: int = 1) -> Delivery:
    return Delivery(str(number).encode(), b"x" * size)


def _numbers(deliveries: Iterable[Delivery]) -> list[int]:
    return [int(delivery.subject) for delivery in deliveries]


def test_batches_keep_the_order_and_the_limit_and_a_large_message_is_a_batch_of_its_own() -> None:
    sizes = [10, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES + 5, 1, 1]
    batches = split_batches([_message(i, size) for i, size in enumerate(sizes)])
    assert [_numbers(batch) for batch in batches] == [[0, 1], [2], [3], [4, 5]]


class FakePull:
    """Delivers ``deliveries`` once, all together, and notes what is acked."""

    stream, durable = NAME.split("/")
    batch = 100

    def __init__(self, deliveries: list[Delivery]) -> None:
        self._deliveries = deliveries
        self.acked: list[int] = []

    def want(self, least: int) -> None:
        pass

    async def batches(self) -> AsyncIterator[list[Delivery]]:
        yield self._deliveries
        await asyncio.Event().wait()

    async def ack_all(self, deliveries: Iterable[Delivery]) -> None:
        self.acked += _numbers(deliveries)


class FakeTable:
    """The table of the quarantine, as its one insert sees it."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    async def fetchval(self, _sql: str, *parameters: Any) -> bool | None:
        number = int(parameters[2])
        limit = parameters[-1]
        if number not in self.kept:
            if len(self.kept) >= limit:
                return None
            self.kept.append(number)
        return True


class FakeHandler:
    """Fails for a fault of ours while ``broken`` is set."""

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.away = False
        self.handled: list[int] = []

    async def handle(self, batch: Sequence[Delivery]) -> None:
        if self.away:
            raise DatabaseAway("a test")
        if self.broken & set(_numbers(batch)):
            raise ArithmeticError("a test")
        self.handled += _numbers(batch)


class ConsumerInMemory:
    """A consumer of ten messages."""

    def __init__(self) -> None:
        self.pull = FakePull([_message(number) for number in range(10)])
        self.table = FakeTable()
        self.handler = FakeHandler()
        self.health = Health()

    async def run(self) -> None:
        quarantine = Quarantine(cast(Any, self.table))
        await BatchConsumer(
            cast(Any, self.pull), self.handler.handle, quarantine, self.health
        ).run()

    def limit_reached(self) -> float | None:
        return REGISTRY.get_sample_value(
            "edgetls_billing_quarantine_limit_reached", {"durable": "requests"}
        )

    def all_acked(self) -> bool:
        return sorted(self.pull.acked) == list(range(10))


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> ConsumerInMemory:
    monkeypatch.setattr(store, "MAX_QUARANTINED", LIMIT)
    return ConsumerInMemory()


@asynccontextmanager
async def running(consumer: ConsumerInMemory) -> AsyncIterator[None]:
    task = asyncio.create_task(consumer.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_message_that_fails_goes_into_quarantine_and_costs_the_others_nothing(
    consumer: ConsumerInMemory,
) -> None:
    consumer.handler.broken = {4}
    async with running(consumer):
        await until(consumer.all_acked, "all are acked")
    assert consumer.table.kept == [4]
    assert sorted(consumer.handler.handled) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert consumer.health.missing == {}


async def test_past_the_limit_of_the_quarantine_the_consumer_takes_no_more_and_nothing_is_lost(
    consumer: ConsumerInMemory,
) -> None:
    consumer.handler.broken = set(range(10))
    async with running(consumer):
        await until(lambda: NAME in consumer.health.missing, "it is not ready")
        assert "QuarantineLimitReached" in consumer.health.missing[NAME]
        assert consumer.limit_reached() == 1
        await asyncio.sleep(0.3)
        assert consumer.table.kept == [0, 1, 2], "the queue is not drained into the quarantine"
        assert consumer.pull.acked == [0, 1, 2], "the others stay in their stream"
        consumer.handler.broken = set()
        await until(consumer.all_acked, "the fault is mended")
    assert consumer.handler.handled == [3, 4, 5, 6, 7, 8, 9]
    assert consumer.limit_reached() == 0
    assert consumer.health.missing == {}


async def test_room_in_the_quarantine_lets_the_consumer_go_on(consumer: ConsumerInMemory) -> None:
    consumer.handler.broken = {0, 1, 2, 3}
    async with running(consumer):
        await until(lambda: NAME in consumer.health.missing, "it is not ready")
        consumer.table.kept.remove(0)
        await until(consumer.all_acked, "it goes on")
    assert consumer.table.kept == [1, 2, 3]
    assert consumer.limit_reached() == 0


async def test_a_transient_fault_pauses_the_whole_batch_and_puts_nothing_into_quarantine(
    consumer: ConsumerInMemory,
) -> None:
    consumer.handler.away = True
    async with running(consumer):
        await until(lambda: NAME in consumer.health.missing, "it is not ready")
        assert consumer.limit_reached() == 0
        assert consumer.pull.acked == []
        consumer.handler.away = False
        await until(consumer.all_acked, "the database is back")
    assert consumer.table.kept == []
    assert consumer.handler.handled == list(range(10)), "as one batch"
