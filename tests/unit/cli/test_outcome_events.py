"""Outcomes of commands: heard, kept until they are waited for, or asked for where missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from nats.aio.msg import Msg

from clients.platform import billing_commands, outcome_events
from clients.platform.outcome_events import FoundOutcome, OutcomeWaiter
from shared.contracts.balance import BalanceEvent

CREDITED = "https.event.balance.credited.v1"
REFUSED = "https.event.balance.refused.v1"
MODELS = {CREDITED: BalanceEvent, REFUSED: BalanceEvent}


def balance_event(change: str = "credited", reference: str = "pay-1") -> BalanceEvent:
    return BalanceEvent.model_validate(
        {
            "account": "acme",
            "change": change,
            "crossing": 1,
            "balance": Decimal(1),
            "limit": None,
            "currency": "CNY",
            "hours_left": None,
            "reference": reference,
            "at": datetime(2026, 5, 1, tzinfo=UTC),
        }
    )


class FakeClient:
    """Delivers what a test publishes to those who subscribed."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Msg], Awaitable[None]]] = {}
        self.flushed = 0

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]]) -> None:
        assert subject not in self.callbacks, "subscribed once"
        self.callbacks[subject] = cb

    async def flush(self, timeout: int) -> None:
        self.flushed += 1

    async def publish(self, subject: str, cause: str, body: bytes) -> None:
        message: Any = Msg(_client=None, subject=subject, data=body)  # type: ignore[arg-type]
        message.headers = {"ce-causationid": cause}
        await self.callbacks[subject](message)


class FakeConnection:
    def __init__(self) -> None:
        self.client = FakeClient()
        self.timeout = 1.0


@pytest.fixture
def connection() -> Any:
    return FakeConnection()


async def unknown() -> None:
    return None


async def test_an_event_that_comes_before_the_wait_is_kept(connection: Any) -> None:
    waiter = OutcomeWaiter(connection)
    pending = await waiter.expect("c-1", MODELS)
    assert connection.client.flushed == 2, "the server knows of both subscriptions"
    await connection.client.publish(CREDITED, "another", balance_event().encode())
    await connection.client.publish(CREDITED, "c-1", b"not JSON")
    await connection.client.publish(CREDITED, "c-1", balance_event().encode())
    await connection.client.publish(REFUSED, "c-1", balance_event("refused").encode())
    outcome = await pending.wait(unknown, 1)
    assert outcome is not None and outcome.change == "credited", "the first one counts"


async def test_two_commands_share_a_subscription_and_hear_their_own_events(
    connection: Any,
) -> None:
    waiter = OutcomeWaiter(connection)
    first = await waiter.expect("c-1", MODELS)
    second = await waiter.expect("c-2", {REFUSED: BalanceEvent})
    assert await waiter.expect("c-1", MODELS) is first
    await connection.client.publish(CREDITED, "c-2", balance_event().encode())
    await connection.client.publish(REFUSED, "c-2", balance_event("refused").encode())
    outcome = await second.wait(unknown, 1)
    assert outcome is not None and outcome.change == "refused", "it expects no other event"
    assert await first.wait(unknown, 0.05) is None


async def test_an_outcome_that_was_missed_is_asked_for(connection: Any) -> None:
    pending = await OutcomeWaiter(connection).expect("c-1", MODELS)
    answers = [None, None, balance_event()]

    async def ask() -> BalanceEvent | None:
        return answers.pop(0)

    assert await pending.wait(ask, 5, ask_every=0.01) is not None
    assert answers == []


async def test_outcomes_that_nobody_waits_for_are_forgotten(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome_events, "MOST_REMEMBERED", 2)
    waiter = OutcomeWaiter(connection)
    first = await waiter.expect("c-1", MODELS)
    await waiter.expect("c-2", MODELS)
    await waiter.expect("c-3", MODELS)
    assert await waiter.expect("c-1", MODELS) is not first


async def test_a_subscription_that_failed_is_made_again(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = OutcomeWaiter(connection)
    flush = connection.client.flush

    async def fail(timeout: int) -> None:
        connection.client.callbacks.clear()
        raise TimeoutError

    monkeypatch.setattr(connection.client, "flush", fail)
    with pytest.raises(TimeoutError):
        await waiter.expect("c-1", MODELS)
    monkeypatch.setattr(connection.client, "flush", flush)
    pending = await waiter.expect("c-1", MODELS)
    await connection.client.publish(CREDITED, "c-1", balance_event().encode())
    assert await pending.wait(unknown, 1) is not None


class FakeSearch:
    """Yields at each look what the stream got since the last one."""

    def __init__(self, *looks: list[FoundOutcome[BalanceEvent]]) -> None:
        self.looks = list(looks)

    async def read_new(self) -> AsyncIterator[FoundOutcome[BalanceEvent]]:
        for found in self.looks.pop(0):
            yield found


@pytest.mark.parametrize(
    ("second_look", "change"),
    [
        ([], "credited"),
        ([FoundOutcome("c-2", balance_event("refused"))], "refused"),
        ([FoundOutcome("c-3", balance_event("refused", "pay-2"))], "credited"),
    ],
    ids=["it was booked before", "it is refused after all", "another one is refused"],
)
async def test_an_earlier_booking_of_the_reference_counts_at_the_second_look(
    second_look: list[FoundOutcome[BalanceEvent]], change: str
) -> None:
    search: Any = FakeSearch([FoundOutcome("c-1", balance_event())], second_look)
    credit = billing_commands._CreditSearch(search, "c-2", "acme", "pay-1")
    assert await credit.ask() is None
    outcome = await credit.ask()
    assert outcome is not None and outcome.change == change


async def test_a_wait_ends_at_its_limit(connection: Any) -> None:
    pending = await OutcomeWaiter(connection).expect("c-1", MODELS)
    started = asyncio.get_running_loop().time()
    assert await pending.wait(unknown, 0.1, ask_every=0.02) is None
    assert asyncio.get_running_loop().time() - started < 1
