"""A broker in hostile hands answers a direct get with what it likes: the reader says that it is
away, and lives on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from clients.fleet.keys import ensure_node
from deploy.embedded.nats import find_binary
from deploy.embedded.ports import HOST, Ports
from shared import subjects as s
from shared.errors import BrokerAway
from shared.messaging.direct_get import get_batch, get_last
from tests.integration.edge_agent.rig import EdgeNode
from tests.integration.edge_agent.signing import Signers
from tests.support.waiting import until

STREAM = s.kv_stream(s.BUCKET_BUNDLES)
Answer = list[dict[str, str]]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a nats-server without accounts: whoever speaks there is JetStream."""
    port = Ports(tmp_path / "ports.json").pick("nats")
    process = await asyncio.create_subprocess_exec(
        str(find_binary()), "-a", HOST, "-p", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    client = Client()

    async def connects() -> bool:
        try:
            await client.connect(f"nats://{HOST}:{port}", allow_reconnect=False)
        except (OSError, nats.errors.Error):
            return False
        return True

    try:
        await until(connects, "the broker listens")
        yield client
    finally:
        await client.close()
        process.terminate()
        await process.wait()


async def _answers(client: Client, answer: Answer) -> list[str]:
    """Every direct get gets these headers from now on; the subjects that were asked."""
    asked: list[str] = []

    async def respond(message: Msg) -> None:
        asked.append(message.subject)
        for headers in answer:
            await client.publish(message.reply, b"body", headers=headers)

    await client.subscribe(s.direct_get(">"), cb=respond)
    return asked


def _message(sequence: str) -> dict[str, str]:
    return {"Nats-Subject": "a", "Nats-Sequence": sequence}


FORGED: dict[str, Answer] = {
    "a sequence that is no number": [_message("x")],
    "a sequence that no integer is made of": [_message("9" * 5000)],
    "a negative sequence": [_message("-1")],
    "a sequence before the first that was asked for": [_message("4")],
    "the same sequence for ever": [_message("7"), _message("7")],
    "more than was asked for": [_message(str(n)) for n in range(7, 20)],
    "no sequence": [{"Nats-Subject": "a"}],
    "no subject": [{"Nats-Sequence": "7"}],
}


@pytest.mark.parametrize("answer", FORGED.values(), ids=list(FORGED))
async def test_a_forged_batch_is_no_answer(broker: Client, answer: Answer) -> None:
    await _answers(broker, [*answer, {"Status": "204"}])
    with pytest.raises(BrokerAway):
        await get_batch(broker, STREAM, 5, 10, "a")


async def test_a_true_batch_is_an_answer_in_order(broker: Client) -> None:
    await _answers(broker, [_message("7"), _message("9"), {"Status": "204"}])
    assert [found.sequence for found in await get_batch(broker, STREAM, 5, 2, "a")] == [7, 9]


async def test_a_forged_last_message_is_no_answer(broker: Client) -> None:
    await _answers(broker, [_message("x")])
    with pytest.raises(BrokerAway):
        await get_last(broker, STREAM, "a")


async def test_an_agent_lives_through_forged_answers(broker: Client, tmp_path: Path) -> None:
    ensure_node(tmp_path / "keys")
    signers, url = Signers.make(tmp_path), broker.connected_url
    assert url is not None
    node = EdgeNode.make(
        tmp_path, url.geturl(), signers.operator_key(), signers.trust().encode().decode()
    )
    asked = await _answers(broker, [_message("x")])
    node.start("agent")
    try:
        await until(
            lambda: len(asked) > 6 or node.running["agent"].poll() is not None,
            "it asks again and again",
        )
        assert node.running["agent"].poll() is None, node.log("agent")
    finally:
        node.stop()
