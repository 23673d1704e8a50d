"""Messages that cannot be handled become dead letters, which are shown, replayed and dropped."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shared import catalogue, streams, subjects
from shared.contracts.queries import DeadLetter, ListDead, OneDead
from shared.errors import Malformed, Refused
from shared.ids import new_id
from shared.messages import Outgoing, StreamPosition
from shared.messaging import dead_letters
from shared.messaging.dead_letter_service import DeadLetterService
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from tests.integration.delivery.command_reader import CommandReader, make_command
from tests.support import key_search
from tests.support.cluster import LocalCluster
from tests.support.waiting import until


def _place(sequence: int) -> StreamPosition:
    return StreamPosition(subjects.STREAM_COMMANDS_CONFIG, sequence, datetime.now(UTC))


async def _find_letter(service: DeadLetterService, identity: str) -> DeadLetter:
    """Wait for the dead letter of a message."""

    async def found() -> DeadLetter | None:
        for letter in (await service.list(ListDead(limit=500))).letters:
            if letter.headers["ce-id"] == identity:
                return letter
        return None

    letter = await until(found, f"{identity} is a dead letter")
    assert letter is not None
    return letter


async def test_poison_and_our_own_bugs_become_dead_letters_and_nothing_else_is_lost(
    cluster: LocalCluster,
) -> None:
    client, sender = await cluster.client("config"), Publisher(await cluster.client("platform"))
    service = DeadLetterService(client, Publisher(client), "config")
    sent = [make_command("a") for _ in range(3)]
    async with CommandReader(
        client, fail=[Malformed("no such thing"), RuntimeError("with a secret in it")]
    ) as reader:
        for message in sent:
            await sender.publish(message)
        await until(lambda: sent[2].id in reader.ids(), "the third")
        letters = {x.headers["ce-id"]: x for x in (await service.list(ListDead())).letters}
        assert letters[sent[0].id].reason == "malformed: no such thing"
        assert letters[sent[1].id].reason == "unexpected: RuntimeError"
        assert letters[sent[0].id].body == sent[0].body.decode()
        await service.replay(OneDead(sequence=letters[sent[0].id].sequence))
        await until(lambda: sent[0].id in reader.ids(), "the replayed one")
        await service.drop(OneDead(sequence=letters[sent[1].id].sequence))
        for letter in (letters[sent[0].id], letters[sent[1].id]):
            with pytest.raises(Refused, match=r"dead\.unknown"):
                await service.show(OneDead(sequence=letter.sequence))


async def test_an_event_that_its_reader_could_not_handle_is_replayed_to_that_reader_alone(
    cluster: LocalCluster,
) -> None:
    client, publisher = await cluster.client("config"), Publisher(await cluster.client("config"))
    again: list[Delivery] = []

    async def handle(delivery: Delivery) -> None:
        again.append(delivery)
        if len(again) == 1:
            raise Malformed("still odd")

    source = subjects.DEAD_OWNERS["config"][2]
    service = DeadLetterService(client, publisher, "config", {source: handle})
    place = StreamPosition(subjects.STREAM_EVENTS, 17, datetime.now(UTC))
    event = Delivery.of(catalogue.EVENT_BALANCE_OVERDUE, b"{}", {"ce-id": new_id()}, place)
    await DeadLetters(publisher, source).add(event, "malformed: odd")
    letter = await _find_letter(service, event.id)
    with pytest.raises(Refused, match=r"dead\.still_refused: malformed: still odd"):
        await service.replay(OneDead(sequence=letter.sequence))
    await service.replay(OneDead(sequence=letter.sequence))
    assert [(d.subject, d.body, d.id, d.sequence) for d in again] == [
        (event.subject, b"{}", event.id, 17)
    ] * 2
    with pytest.raises(Refused, match=r"dead\.unknown"):
        await service.show(OneDead(sequence=letter.sequence))


async def test_a_dead_letter_of_what_carried_a_sealed_key_keeps_no_body(
    cluster: LocalCluster,
) -> None:
    client, sender = await cluster.client("config"), Publisher(await cluster.client("platform"))
    service = DeadLetterService(client, Publisher(client), "config")
    headers = {"ce-id": new_id(), "ce-source": "test"}
    async with CommandReader(client, fail=[Malformed("odd")]):
        await sender.publish(
            Outgoing(catalogue.CMD_CERTIFICATE_SUBMIT, b'{"sealed": "box"}', headers)
        )
        letter = await _find_letter(service, headers["ce-id"])
        assert letter.body is None
        with pytest.raises(Refused, match=r"dead\.bodiless"):
            await service.replay(OneDead(sequence=letter.sequence))


async def test_a_message_too_large_for_a_dead_letters_headers_is_kept_without_its_body(
    cluster: LocalCluster,
) -> None:
    client = await cluster.client("config")
    dead = DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG)
    service = DeadLetterService(client, Publisher(client), "config")
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
        letter = await _find_letter(service, identity)
        assert letter.body is None
        assert (
            letter.reason
            == f"malformed: not JSON (its body of {size:,} bytes is not kept: too large)"
        )
        assert letter.headers["ce-source"] == "s" * 256
    assert client.is_connected


async def test_a_private_key_in_clear_is_erased_where_it_came_from_and_not_kept_in_its_dead_letter(
    cluster: LocalCluster,
) -> None:
    client, sender = await cluster.client("config"), Publisher(await cluster.client("platform"))
    key = ec.generate_private_key(ec.SECP256R1())
    body = json.dumps(
        {"account": "a", "roots": "", "private_key": key_search.private_key_pem(key)["PKCS8"]}
    ).encode()
    headers = {
        "ce-id": new_id(),
        "ce-source": key_search.private_key_pem(key)["PKCS8"].replace("\n", ""),
    }
    await sender.publish(Outgoing(catalogue.CMD_ROOTS_SET, body, headers))
    await sender.publish(make_command("a"))  # what is not taken yet keeps the block's file
    wanted, store = key_search.key_patterns(key), cluster.folder / "nats" / "store"

    def places() -> list[Path]:
        return [
            path
            for path in store.rglob("*")
            if path.is_file() and key_search.find_in_file(wanted, path)
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
    service = DeadLetterService(client, Publisher(client), "config")
    letter = await _find_letter(service, headers["ce-id"])
    assert letter.body is None and "key in clear" in letter.reason
    assert letter.headers.keys() == {"ce-id"}


async def test_the_largest_body_that_is_kept_is_listed_and_replayed(cluster: LocalCluster) -> None:
    client = await cluster.client("config")
    service = DeadLetterService(client, Publisher(client), "config")
    identity, body = new_id(), b"x" * (streams.MAX_COMMAND_BYTES - 1000)
    await DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG).add(
        Delivery.of(catalogue.CMD_DOMAIN_REGISTER, body, {"ce-id": identity}, _place(10**7)),
        "malformed: not JSON",
    )
    letter = await _find_letter(service, identity)
    assert letter.body is not None
    async with CommandReader(client) as reader:
        await service.replay(OneDead(sequence=letter.sequence))
        again = await until(
            lambda: next((d for d in reader.seen if d.id == identity), None), "it is replayed"
        )
        assert again.body == body
