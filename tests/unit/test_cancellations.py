"""A cancellation that meets an answer is not lost, whatever the library makes of it."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.messaging.nats_client import as_nats_client


async def test_a_task_that_is_cancelled_while_its_answer_arrives_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def request(_client: Client, _subject: str) -> Msg:
        return await asyncio.wait_for(answer, 5)

    monkeypatch.setattr(Client, "request", request)
    asking = asyncio.create_task(as_nats_client(client).request("any"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_result(Msg(client))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
