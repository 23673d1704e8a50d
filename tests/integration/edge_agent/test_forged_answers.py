"""The reader takes a broker that forges answers to a direct get for away, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from deploy.embedded.nats import find_nats_server
from deploy.embedded.ports import HOST, Ports
from shared import subjects as s
from shared.errors import BrokerAway
from shared.messaging.direct_get import get_batch, get_last
from tests.integration.edge_agent.node_processes import NODE_ID, NodeProcesses
from tests.support.trust import PlatformSigners
from tests.support.waiting import until

STREAM = s.kv_stream(s.BUCKET_BUNDLES)
AnswerHeaders = list[dict[str, str]]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Client]:
    """Return a client of a nats-server without accounts: any client can answer as JetStream."""
    port = Ports(tmp_path / "ports.json").pick("nats")
    process = await asyncio.create_subprocess_exec(
        str(find_nats_server()), "-a", HOST, "-p", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    client = Client()

    async def try_connect() -> bool:
        try:
            await client.connect(f"nats://{HOST}:{port}", allow_reconnect=False)
        except (OSError, nats.errors.Error):
            return False
        return True

    try:
        await until(try_connect, "the broker listens")
        yield client
    finally:
        await client.close()
        process.terminate()
        await process.wait()


async def answer_direct_gets(client: Client, answer: AnswerHeaders) -> list[str]:
    """Answer every direct get with these headers; return the list that collects the subjects."""
    asked: list[str] = []

    async def respond(message: Msg) -> None:
        asked.append(message.subject)
        for headers in answer:
            await client.publish(message.reply, b"body", headers=headers)

    await client.subscribe(s.direct_get(">"), cb=respond)
    return asked


def make_headers(sequence: str) -> dict[str, str]:
    return {"Nats-Subject": "a", "Nats-Sequence": sequence}


FORGED_ANSWERS: dict[str, AnswerHeaders] = {
    "a sequence that is not a number": [make_headers("x")],
    "a sequence with too many digits": [make_headers("9" * 5000)],
    "a negative sequence": [make_headers("-1")],
    "a sequence before the first that was asked for": [make_headers("4")],
    "the same sequence for ever": [make_headers("7"), make_headers("7")],
    "more than was asked for": [make_headers(str(n)) for n in range(7, 20)],
    "no sequence": [{"Nats-Subject": "a"}],
    "no subject": [{"Nats-Sequence": "7"}],
}


@pytest.mark.parametrize("answer", FORGED_ANSWERS.values(), ids=list(FORGED_ANSWERS))
async def test_a_forged_batch_is_rejected(broker: Client, answer: AnswerHeaders) -> None:
    await answer_direct_gets(broker, [*answer, {"Status": "204"}])
    with pytest.raises(BrokerAway):
        await get_batch(broker, STREAM, 5, 10, "a")


async def test_a_true_batch_is_returned_in_order(broker: Client) -> None:
    await answer_direct_gets(broker, [make_headers("7"), make_headers("9"), {"Status": "204"}])
    assert [found.sequence for found in await get_batch(broker, STREAM, 5, 2, "a")] == [7, 9]


async def test_a_forged_last_message_is_rejected(broker: Client) -> None:
    await answer_direct_gets(broker, [make_headers("x")])
    with pytest.raises(BrokerAway):
        await get_last(broker, STREAM, "a")


async def test_an_agent_survives_forged_answers(broker: Client, tmp_path: Path) -> None:
    keys = PlatformSigners.create(tmp_path, [NODE_ID])
    url = broker.connected_url
    assert url is not None
    node = NodeProcesses.create(keys, url.geturl())
    asked = await answer_direct_gets(broker, [make_headers("x")])
    await node.start("agent")
    try:
        await until(
            lambda: len(asked) > 6 or node.agent.pid is None,
            "it asks again and again",
        )
        assert node.agent.pid is not None, node.read_log("agent")
    finally:
        await node.stop()
