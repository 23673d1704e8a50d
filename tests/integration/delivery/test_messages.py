"""Publishing, pulling, failing: on a real JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client
from nats.errors import MaxPayloadError
from nats.js.api import RetentionPolicy

from clients.fleet.keys import ensure_nkey
from shared import catalogue, streams, subjects, topology
from shared.contracts.commands import DisableHttps, SetThreshold
from shared.contracts.queries import DeadLetter, ListDead, OneDead
from shared.errors import BrokerAway, EdgetlsError, Malformed, Refused, SettingsError, TooLarge
from shared.ids import new_id
from shared.messages import Outgoing, StreamPosition
from shared.messaging import dead_letters
from shared.messaging.cloudevents import outgoing
from shared.messaging.connection import probe
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letter_service import DeadLetterService
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.direct_get import get_batch, get_last
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.runtime import _watch_broker
from tests.support import canary
from tests.support.backend import Backend
from tests.support.waiting import until


def _command(account: str, id: str | None = None) -> Outgoing:
    body = DisableHttps(domain="a.example", account=account)
    return outgoing(
        catalogue.CMD_HTTPS_DISABLE,
        body,
        source="test",
        about="a.example",
        at=datetime.now(UTC),
        id=id,
    )


def _place(sequence: int) -> StreamPosition:
    return StreamPosition(subjects.STREAM_COMMANDS_CONFIG, sequence, datetime.now(UTC))


class Reader:
    """A Consumer of the commands of config that notes what it handled."""

    def __init__(self, client: Client, *, fail: list[Exception] | None = None) -> None:
        self.seen: list[Delivery] = []
        self.fail = fail or []
        self.health = Health()
        pull = Pull(client, subjects.STREAM_COMMANDS_CONFIG, subjects.DURABLE_CONFIG_COMMANDS)
        dead = DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG)
        self._consumer = Consumer(pull, self._handle, dead, self.health)

    async def __aenter__(self) -> Reader:
        self._task = asyncio.create_task(self._consumer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _handle(self, delivery: Delivery) -> None:
        if self.fail:
            raise self.fail.pop(0)
        self.seen.append(delivery)

    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.seen]


async def test_a_published_message_is_handled_within_milliseconds_with_its_headers(
    rig: Backend,
) -> None:
    sender = Publisher(await rig.client("platform"))
    async with Reader(await rig.client("config")) as reader:
        await sender.publish(_command("warm-up"))
        await until(lambda: reader.seen, "the first message")
        message = _command("a")
        started = time.monotonic()
        await sender.publish(message)
        found = await until(
            lambda: next((d for d in reader.seen if d.id == message.id), None),
            "the message",
            every=0.001,
        )
        assert time.monotonic() - started < 1
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
async def test_no_header_ends_the_reader_or_hides_its_message(rig: Backend, headers: bytes) -> None:
    """Between accounts the server writes the headers anew; inside one it passes on what was
    sent."""
    sender, bodies = await rig.client("billing"), [new_id().encode(), new_id().encode()]
    for body in bodies:
        parts = (
            catalogue.USAGE_REQUEST.encode(),
            str(len(headers)).encode(),
            str(len(headers) + len(body)).encode(),
        )
        await sender._send_command(b"HPUB " + b" ".join(parts) + b"\r\n" + headers + body + b"\r\n")
    await sender.flush()
    pull = Pull(
        await rig.client("billing"), subjects.STREAM_USAGE, subjects.DURABLE_BILLING_REQUESTS
    )
    found: list[bytes] = []
    async with asyncio.timeout(5):
        async for deliveries in pull.batches():
            found += [delivery.body for delivery in deliveries]
            await pull.ack_all(deliveries)
            if set(bodies) <= set(found):
                break


async def test_the_same_id_and_body_is_stored_once_and_the_same_id_with_another_body_arrives(
    rig: Backend,
) -> None:
    sender = Publisher(await rig.client("platform"))
    identity = new_id()
    async with Reader(await rig.client("config")) as reader:
        first = await sender.publish(_command("a", identity))
        assert await sender.publish(_command("a", identity)) == first
        assert await sender.publish(_command("b", identity)) != first
        await until(lambda: reader.ids().count(identity) == 2, "both bodies")


async def test_a_fault_that_passes_keeps_the_message_and_its_place_and_clears_readiness(
    rig: Backend,
) -> None:
    sender = Publisher(await rig.client("platform"))
    sent = [_command("a") for _ in range(5)]
    faults: list[Exception] = [BrokerAway("away"), TimeoutError(), ConnectionResetError()]
    async with Reader(await rig.client("config"), fail=faults) as reader:
        for message in sent:
            await sender.publish(message)
        await until(lambda: reader.health.missing, "not ready", every=0.001)
        await until(lambda: len(reader.seen) >= 5, "all after the fault passed")
        assert reader.ids()[-5:] == [message.id for message in sent]
        assert not reader.health.missing


async def test_poison_and_our_own_bugs_become_dead_letters_and_nothing_else_is_lost(
    rig: Backend,
) -> None:
    client, sender = await rig.client("config"), Publisher(await rig.client("platform"))
    office = DeadLetterService(client, Publisher(client), "config")
    sent = [_command("a") for _ in range(3)]
    async with Reader(
        client, fail=[Malformed("no such thing"), RuntimeError("with a secret in it")]
    ) as reader:
        for message in sent:
            await sender.publish(message)
        await until(lambda: sent[2].id in reader.ids(), "the third")
        letters = {x.headers["ce-id"]: x for x in (await office.list(ListDead())).letters}
        assert letters[sent[0].id].reason == "malformed: no such thing"
        assert letters[sent[1].id].reason == "unexpected: RuntimeError"
        assert letters[sent[0].id].body == sent[0].body.decode()
        await office.replay(OneDead(sequence=letters[sent[0].id].sequence))
        await until(lambda: sent[0].id in reader.ids(), "the replayed one")
        await office.drop(OneDead(sequence=letters[sent[1].id].sequence))
        for letter in (letters[sent[0].id], letters[sent[1].id]):
            with pytest.raises(Refused, match=r"dead\.unknown"):
                await office.show(OneDead(sequence=letter.sequence))


async def test_an_event_that_its_reader_could_not_handle_is_replayed_to_that_reader_alone(
    rig: Backend,
) -> None:
    client, publisher = await rig.client("config"), Publisher(await rig.client("config"))
    again: list[Delivery] = []

    async def handle(delivery: Delivery) -> None:
        again.append(delivery)
        if len(again) == 1:
            raise Malformed("still odd")

    source = subjects.DEAD_OWNERS["config"][2]
    office = DeadLetterService(client, publisher, "config", {source: handle})
    place = StreamPosition(subjects.STREAM_EVENTS, 17, datetime.now(UTC))
    event = Delivery.of(catalogue.EVENT_BALANCE_OVERDUE, b"{}", {"ce-id": new_id()}, place)
    await DeadLetters(publisher, source).add(event, "malformed: odd")
    found = [
        x
        for x in (await office.list(ListDead(limit=500))).letters
        if x.headers["ce-id"] == event.id
    ]
    with pytest.raises(Refused, match=r"dead\.still_refused: malformed: still odd"):
        await office.replay(OneDead(sequence=found[0].sequence))
    await office.replay(OneDead(sequence=found[0].sequence))
    assert [(d.subject, d.body, d.id, d.sequence) for d in again] == [
        (event.subject, b"{}", event.id, 17)
    ] * 2
    with pytest.raises(Refused, match=r"dead\.unknown"):
        await office.show(OneDead(sequence=found[0].sequence))


async def test_a_dead_letter_of_what_carried_a_sealed_key_keeps_no_body(rig: Backend) -> None:
    client, sender = await rig.client("config"), Publisher(await rig.client("platform"))
    office = DeadLetterService(client, Publisher(client), "config")
    headers = {"ce-id": new_id(), "ce-source": "test"}
    async with Reader(client, fail=[Malformed("odd")]):
        await sender.publish(
            Outgoing(catalogue.CMD_CERTIFICATE_SUBMIT, b'{"sealed": "box"}', headers)
        )

        async def letter() -> DeadLetter | None:
            found = (await office.list(ListDead())).letters
            return next((x for x in found if x.headers["ce-id"] == headers["ce-id"]), None)

        buried = await until(letter, "the dead letter")
        assert buried.body is None
        with pytest.raises(Refused, match=r"dead\.bodiless"):
            await office.replay(OneDead(sequence=buried.sequence))


async def test_a_message_too_large_for_a_dead_letters_headers_is_kept_without_its_body(
    rig: Backend,
) -> None:
    client = await rig.client("config")
    dead = DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG)
    office = DeadLetterService(client, Publisher(client), "config")
    for number, size in enumerate(
        (1_048_400, streams.MAX_MESSAGE_BYTES, dead_letters.MAX_BODY_BYTES + 1)
    ):
        identity = new_id()
        # Headers may be as long as a body, and have names that nobody may send.
        headers = {
            "ce-id": identity,
            "x-long": "y" * 900_000,
            "not a name": "",
            "ce-source": "s" * 5000,
        }
        await dead.add(
            Delivery.of(
                catalogue.CMD_DOMAIN_REGISTER, b"x" * size, headers, _place(10**6 + number)
            ),
            "malformed: not JSON",
        )
        letter = next(
            x
            for x in (await office.list(ListDead(limit=500))).letters
            if x.headers["ce-id"] == identity
        )
        assert letter.body is None
        assert (
            letter.reason
            == f"malformed: not JSON (its body of {size:,} bytes is not kept: too large)"
        )
        assert letter.headers["ce-source"] == "s" * 256
    assert client.is_connected


async def test_a_private_key_in_clear_is_erased_where_it_came_from_and_not_kept_in_its_dead_letter(
    rig: Backend,
) -> None:
    client, sender = await rig.client("config"), Publisher(await rig.client("platform"))
    key = ec.generate_private_key(ec.SECP256R1())
    body = json.dumps(
        {"account": "a", "roots": "", "private_key": canary.pem(key)["PKCS8"]}
    ).encode()
    headers = {"ce-id": new_id(), "ce-source": canary.pem(key)["PKCS8"].replace("\n", "")}
    await sender.publish(Outgoing(catalogue.CMD_ROOTS_SET, body, headers))
    await sender.publish(_command("a"))  # what is not taken yet keeps the block's file
    wanted, store = canary.needles(key), rig.folder / "nats" / "store"

    def places() -> list[Path]:
        return [
            path
            for path in store.rglob("*")
            if path.is_file() and canary.found_in_file(wanted, path)
        ]

    pull = Pull(client, subjects.STREAM_COMMANDS_CONFIG, subjects.DURABLE_CONFIG_COMMANDS)
    async with contextlib.aclosing(pull.batches()) as batches:
        delivered: list[Delivery] = []
        while len(delivered) < 2:
            delivered += await anext(batches)
        assert places(), "the search finds what is not erased yet"
        await DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG).add(
            delivered[0], "malformed: odd"
        )
        await pull.ack(delivered[0])
        assert not places()
        await pull.ack(delivered[1])
    letters = (
        await DeadLetterService(client, Publisher(client), "config").list(ListDead(limit=500))
    ).letters
    letter = next(x for x in letters if x.headers["ce-id"] == headers["ce-id"])
    assert letter.body is None and "key in clear" in letter.reason
    assert letter.headers.keys() == {"ce-id"}


async def test_the_largest_body_that_is_kept_is_listed_and_replayed(rig: Backend) -> None:
    client = await rig.client("config")
    office = DeadLetterService(client, Publisher(client), "config")
    identity, body = new_id(), b"x" * (streams.MAX_COMMAND_BYTES - 1000)
    await DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG).add(
        Delivery.of(catalogue.CMD_DOMAIN_REGISTER, body, {"ce-id": identity}, _place(10**7)),
        "malformed: not JSON",
    )
    letter = next(
        x
        for x in (await office.list(ListDead(limit=500))).letters
        if x.headers["ce-id"] == identity
    )
    assert letter.body is not None
    async with Reader(client) as reader:
        await office.replay(OneDead(sequence=letter.sequence))
        again = await until(
            lambda: next((d for d in reader.seen if d.id == identity), None), "it is replayed"
        )
        assert again.body == body


async def test_what_is_too_large_for_its_stream_is_told_at_once_and_costs_no_connection(
    rig: Backend,
) -> None:
    client = await rig.client("platform")
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


async def test_a_connection_that_was_closed_for_good_says_why_and_is_no_fault_of_the_settings(
    rig: Backend,
) -> None:
    loud = await rig.client("platform")
    await loud._send_command(f"PUB x {streams.MAX_PAYLOAD + 1}\r\n".encode())
    await loud._flush_pending()
    with pytest.raises(EdgetlsError, match="for good: maximum payload violation") as error:
        await asyncio.wait_for(_watch_broker(loud, Health()), 20)
    assert not isinstance(error.value, SettingsError)


async def test_an_unknown_command_gets_no_pub_ack(rig: Backend) -> None:
    sender = Publisher(await rig.client("platform"))
    with pytest.raises(BrokerAway, match="was not stored"):
        await sender.publish(
            Outgoing("https.cmd.domain.invent.v1", b"{}", {"ce-id": "x"}), timeout=0.2
        )


async def test_a_service_cannot_bury_in_anothers_name(rig: Backend) -> None:
    sender = Publisher(await rig.client("config"))
    with pytest.raises(BrokerAway):
        await sender.publish(
            Outgoing(subjects.dead(subjects.STREAM_USAGE), b"{}", {"ce-id": "x"}), timeout=0.2
        )


async def test_direct_get_reads_a_range_and_the_last_of_a_subject(rig: Backend) -> None:
    client = await rig.client("edge_sync")
    bucket = subjects.kv_stream(subjects.BUCKET_BUNDLES)
    keys = [subjects.kv_subject(subjects.BUCKET_BUNDLES, f"example.r{i}") for i in range(7)]
    for key in keys:
        await client.request(key, key.encode(), timeout=2)
    found = await get_batch(client, bucket, 1, 100, subjects.kv_all(subjects.BUCKET_BUNDLES))
    assert [m.subject for m in found] == keys
    assert [
        m.subject for m in await get_batch(client, bucket, found[3].sequence, 2, keys[0][:-2] + "*")
    ] == keys[3:5]
    last = await get_last(client, bucket, keys[6])
    assert last is not None
    assert last.body == keys[6].encode()
    assert await get_last(client, bucket, keys[6] + "x") is None
    assert (
        await get_batch(
            client, bucket, found[-1].sequence + 1, 10, subjects.kv_all(subjects.BUCKET_BUNDLES)
        )
        == []
    )


async def test_a_refused_login_says_so_at_once(rig: Backend) -> None:
    settings = rig.settings("platform").model_copy(
        update={"nats_seed_file": rig.folder / "stranger.nk"}
    )
    ensure_nkey(settings.nats_seed_file)
    with pytest.raises(SettingsError, match="refused the login"):
        await probe(settings, "platform")


async def test_the_topology_is_what_it_says_and_a_second_apply_changes_nothing(
    rig: Backend,
) -> None:
    js = (await rig.client("topology")).jetstream(timeout=10)
    everything = (await rig.client("storekeeper")).jetstream(timeout=10)
    assert {change.action for change in await topology.plan(js)} == {"same"}
    await everything.delete_consumer(subjects.STREAM_USAGE, subjects.DURABLE_BILLING_REQUESTS)
    found = (await js.stream_info(subjects.STREAM_EVENTS)).config
    await everything.update_stream(found.evolve(max_msg_size=1000))
    changed = [change.name for change in await topology.apply(js) if change.action != "same"]
    assert changed == [
        subjects.STREAM_EVENTS,
        f"{subjects.STREAM_USAGE}/{subjects.DURABLE_BILLING_REQUESTS}",
    ]
    assert {change.action for change in await topology.plan(js)} == {"same"}


async def test_an_empty_stream_of_another_kind_is_made_anew_and_no_other_is_deleted(
    rig: Backend,
) -> None:
    js = (await rig.client("topology")).jetstream(timeout=10)
    everything = (await rig.client("storekeeper")).jetstream(timeout=10)
    for name in (subjects.STREAM_USAGE, subjects.STREAM_JUDGING):
        found = (await js.stream_info(name)).config
        kinds = {
            RetentionPolicy.LIMITS: RetentionPolicy.WORK_QUEUE,
            RetentionPolicy.WORK_QUEUE: RetentionPolicy.LIMITS,
        }
        await everything.delete_stream(name)
        await everything.add_stream(found.evolve(retention=kinds[found.retention]))  # type: ignore[index]
    with pytest.raises(
        SettingsError, match="JUDGING is kept in another way than it was made: delete it by hand"
    ):
        await topology.apply(js)
    await everything.delete_stream(subjects.STREAM_JUDGING)
    await topology.apply(js)
    assert {change.action for change in await topology.plan(js)} == {"same"}


async def test_a_killed_broker_loses_nothing_that_was_acked_and_the_pull_goes_on(
    rig: Backend,
) -> None:
    client = await rig.client("platform")
    sender = Publisher(client)
    async with Reader(await rig.client("config")) as reader:
        before = [_command("a") for _ in range(20)]
        for message in before:
            await sender.publish(message)
        rig.kill("nats")
        after = [_command("a") for _ in range(20)]
        for message in after:
            await sender.publish(message, timeout=30)
        wanted = [message.id for message in (*before, *after)]
        await until(lambda: set(wanted) <= set(reader.ids()), "all of them", limit=30)


async def test_what_the_threshold_command_looks_like_is_stored_for_billing(rig: Backend) -> None:
    sender = Publisher(await rig.client("operator"))
    body = SetThreshold(account="a", threshold=None, currency="CNY")
    at = datetime.now(UTC)
    assert (
        await sender.publish(
            outgoing(catalogue.CMD_BALANCE_THRESHOLD, body, source="t", about="a", at=at)
        )
        >= 1
    )
