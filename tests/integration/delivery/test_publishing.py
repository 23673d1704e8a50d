"""Messages are published to a real JetStream and pulled from it, each once and whole."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from nats.errors import MaxPayloadError

from shared import catalogue, streams, subjects
from shared.contracts.commands import SetThreshold
from shared.errors import BrokerAway, TooLarge
from shared.ids import new_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.direct_get import get_batch, get_last
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from tests.integration.delivery.command_reader import CommandReader, make_command
from tests.support.cluster import LocalCluster
from tests.support.waiting import LIMIT_SECONDS, until


async def test_a_published_message_is_handled_at_once_with_its_headers(
    cluster: LocalCluster,
) -> None:
    sender = Publisher(await cluster.client("platform"))
    async with CommandReader(await cluster.client("config")) as reader:
        await sender.publish(make_command("warm-up"))
        await until(lambda: reader.seen, "the first message")
        message = make_command("a")
        started = time.monotonic()
        await sender.publish(message)
        found = await until(
            lambda: next((d for d in reader.seen if d.id == message.id), None),
            "the message",
            every=0.001,
        )
        # It takes milliseconds; a consumer that slept between two pulls would take far longer.
        assert time.monotonic() - started < 10
        assert found.body == message.body
        assert found.headers["ce-type"] == catalogue.CMD_HTTPS_DISABLE
        assert found.source == "test"


@pytest.mark.parametrize(
    "headers",
    [
        b"NATS/1.0 \xff\xff\xff\r\n\r\n",
        b"NATS/1.0 404\r\nA: \xff\r\n\r\n",
        b"NATS/1.0",
        b"NATS/1.0 408\r\n\r\n",
        b"NATS/1.0\r\nA \xff: b\r\n\r\n",
    ],
    ids=[
        "a status that is no text",
        "a status and a value",
        "the version alone",
        "a status of the server's",
        "a name",
    ],
)
async def test_no_header_ends_the_reader_or_hides_its_message(
    cluster: LocalCluster, headers: bytes
) -> None:
    """Between accounts the server writes the headers anew; inside one it passes on what was
    sent."""
    sender = await cluster.client("billing")
    bodies = [new_id().encode(), new_id().encode()]
    for body in bodies:
        parts = (
            catalogue.USAGE_REQUEST.encode(),
            str(len(headers)).encode(),
            str(len(headers) + len(body)).encode(),
        )
        await sender._send_command(b"HPUB " + b" ".join(parts) + b"\r\n" + headers + body + b"\r\n")
    await sender.flush()
    pull = Pull(
        await cluster.client("billing"), subjects.STREAM_USAGE, subjects.DURABLE_BILLING_REQUESTS
    )
    found: list[bytes] = []
    async with asyncio.timeout(LIMIT_SECONDS):
        async for deliveries in pull.batches():
            found += [delivery.body for delivery in deliveries]
            await pull.ack_all(deliveries)
            if set(bodies) <= set(found):
                break


async def test_the_same_id_and_body_is_stored_once_and_the_same_id_with_another_body_arrives(
    cluster: LocalCluster,
) -> None:
    sender = Publisher(await cluster.client("platform"))
    identity = new_id()
    async with CommandReader(await cluster.client("config")) as reader:
        first = await sender.publish(make_command("a", identity))
        assert await sender.publish(make_command("a", identity)) == first
        assert await sender.publish(make_command("b", identity)) != first
        await until(lambda: reader.ids().count(identity) == 2, "both bodies")


async def test_a_fault_that_passes_keeps_the_message_and_its_place_and_clears_readiness(
    cluster: LocalCluster,
) -> None:
    sender = Publisher(await cluster.client("platform"))
    sent = [make_command("a") for _ in range(5)]
    faults: list[Exception] = [BrokerAway("away"), TimeoutError(), ConnectionResetError()]
    async with CommandReader(await cluster.client("config"), fail=faults) as reader:
        for message in sent:
            await sender.publish(message)
        await until(lambda: reader.health.missing, "not ready", every=0.001)
        await until(lambda: len(reader.seen) >= 5, "all after the fault passed")
        assert reader.ids()[-5:] == [message.id for message in sent]
        assert not reader.health.missing


async def test_what_is_too_large_for_its_stream_is_told_at_once_and_costs_no_connection(
    cluster: LocalCluster,
) -> None:
    client = await cluster.client("platform")
    for size in (
        streams.MAX_COMMAND_BYTES,
        streams.MAX_MESSAGE_BYTES,
        streams.MAX_PAYLOAD - 100,
        streams.MAX_PAYLOAD + 1,
    ):
        with pytest.raises(
            TooLarge,
            match=r"https\.cmd\.domain\.register\.v1 with .* is more than its stream takes",
        ):
            await Publisher(client).publish(
                Outgoing(
                    catalogue.CMD_DOMAIN_REGISTER,
                    b"x" * size,
                    {"ce-id": new_id(), "ce-source": "t"},
                )
            )
    with pytest.raises(MaxPayloadError):
        await client.publish(
            catalogue.CMD_DOMAIN_REGISTER, b"x" * (streams.MAX_PAYLOAD - 10), headers={"a": "b"}
        )
    await client.flush()
    assert client.is_connected


async def test_an_unknown_command_gets_no_pub_ack(cluster: LocalCluster) -> None:
    sender = Publisher(await cluster.client("platform"))
    with pytest.raises(BrokerAway, match="was not stored"):
        await sender.publish(
            Outgoing("https.cmd.domain.invent.v1", b"{}", {"ce-id": "x"}), timeout=0.2
        )


async def test_a_service_cannot_add_a_dead_letter_in_anothers_name(cluster: LocalCluster) -> None:
    sender = Publisher(await cluster.client("config"))
    with pytest.raises(BrokerAway):
        await sender.publish(
            Outgoing(subjects.dead(subjects.STREAM_USAGE), b"{}", {"ce-id": "x"}), timeout=0.2
        )


async def test_direct_get_reads_a_range_and_the_last_of_a_subject(cluster: LocalCluster) -> None:
    client = await cluster.client("edge_sync")
    bucket = subjects.kv_stream(subjects.BUCKET_BUNDLES)
    keys = [subjects.kv_subject(subjects.BUCKET_BUNDLES, f"example.r{i}") for i in range(7)]
    for key in keys:
        await client.request(key, key.encode(), timeout=30)
    found = await get_batch(client, bucket, 1, 100, subjects.kv_all(subjects.BUCKET_BUNDLES))
    assert [m.subject for m in found] == keys
    assert [
        m.subject for m in await get_batch(client, bucket, found[3].sequence, 2, keys[0][:-2] + "*")
    ] == keys[3:5]
    last = await get_last(client, bucket, keys[6])
    assert last is not None
    assert last.body == keys[6].encode()
    assert await get_last(client, bucket, keys[6] + "x") is None
    end = found[-1].sequence + 1
    assert await get_batch(client, bucket, end, 10, subjects.kv_all(subjects.BUCKET_BUNDLES)) == []


async def test_a_killed_broker_loses_nothing_that_was_acked_and_the_pull_goes_on(
    cluster: LocalCluster,
) -> None:
    client = await cluster.client("platform")
    sender = Publisher(client)
    async with CommandReader(await cluster.client("config")) as reader:
        before = [make_command("a") for _ in range(20)]
        for message in before:
            await sender.publish(message)
        cluster.kill("nats")
        after = [make_command("a") for _ in range(20)]
        for message in after:
            await sender.publish(message, timeout=60)
        wanted = [message.id for message in (*before, *after)]
        await until(lambda: set(wanted) <= set(reader.ids()), "all of them")


async def test_what_the_threshold_command_looks_like_is_stored_for_billing(
    cluster: LocalCluster,
) -> None:
    sender = Publisher(await cluster.client("operator"))
    body = SetThreshold(account="a", threshold=None, currency="CNY")
    at = datetime.now(UTC)
    assert (
        await sender.publish(
            outgoing(catalogue.CMD_BALANCE_THRESHOLD, body, source="t", about="a", at=at)
        )
        >= 1
    )
