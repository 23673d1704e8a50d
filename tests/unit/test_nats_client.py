"""The client: what its reader makes of the bytes, and the private names of nats-py that it uses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from shared.messaging.delivery import Delivery
from shared.messaging.nats_client import as_nats_client

TAKEN, OTHER = 7, 8
HEADERS = b"NATS/1.0\r\nce-id: 1\r\n\r\n"


@dataclass(frozen=True)
class Piece:
    """Bytes of the connection, and the body that somebody takes of them, if one does."""

    wire: bytes
    body: bytes | None = None


def _delivery(subscription: int, body: bytes) -> Piece:
    head = b"HMSG a.b %d $JS.ACK.S.d.1.2.3.4.5 %d %d\r\n" % (
        subscription,
        len(HEADERS),
        len(HEADERS) + len(body),
    )
    return Piece(head + HEADERS + body + b"\r\n", body if subscription == TAKEN else None)


def _without_headers(body: bytes) -> Piece:
    return Piece(b"MSG a.b %d $JS.ACK.S.d.1.2.3.4.5 %d\r\n%b\r\n" % (TAKEN, len(body), body), body)


def _status(body: bytes) -> Piece:
    """The server's own word has no reply."""
    head = b"HMSG a.b %d %d %d\r\n" % (TAKEN, len(HEADERS), len(HEADERS) + len(body))
    return Piece(head + HEADERS + body + b"\r\n")


bodies = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"\r\n", b"HMSG a 7 b 1 2\r\n", b"x" * 5000])
)
pieces = st.one_of(
    st.builds(_delivery, st.sampled_from([TAKEN, OTHER]), bodies),
    st.builds(_without_headers, bodies),
    st.builds(_status, bodies),
    st.sampled_from([Piece(b"+OK\r\n"), Piece(b"PONG\r\n")]),
)


@given(st.lists(pieces, max_size=20), st.lists(st.integers(1, 400), max_size=40))
def test_every_delivery_is_taken_once_and_in_order_however_the_bytes_are_cut(
    sent: Sequence[Piece], cuts: Sequence[int]
) -> None:
    client = as_nats_client(Client())
    found: list[Delivery] = []
    client.receivers[TAKEN] = lambda *received: found.append(Delivery(*received))
    wire = b"".join(piece.wire for piece in sent)

    async def read() -> None:
        place = 0
        for length in (*cuts, len(wire)):
            await client._ps.parse(wire[place : place + length])
            place += length

    asyncio.run(read())
    assert [one.body for one in found] == [piece.body for piece in sent if piece.body is not None]
    assert {(one.subject, one.reply) for one in found} <= {("a.b", "$JS.ACK.S.d.1.2.3.4.5")}
    assert not client._ps.buf


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Client._process_msg, ["self", "sid", "subject", "reply", "data", "headers"]),
        (Client._process_headers, ["self", "headers"]),
        (Client._send_command, ["self", "cmd", "priority"]),
        (Client._flush_pending, ["self", "force_flush"]),
        (Client._parse_header_lines, ["raw"]),
        (Msg.Metadata._from_reply, ["reply"]),
        (JetStreamContext._api_request, ["self", "req_subject", "req", "timeout"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_private_function_of_the_library_is_called_as_it_was_read(
    function: Callable[..., Any], parameters: list[str]
) -> None:
    assert list(inspect.signature(function).parameters) == parameters


def test_the_private_attributes_of_the_library_are_there() -> None:
    client = Client()
    assert client.jetstream(timeout=3)._timeout == 3
    assert Subscription(client, id=5, subject="a")._id == 5


def test_the_library_is_the_minor_version_whose_private_names_were_read() -> None:
    assert version("nats-py").split(".")[:2] == ["2", "16"]
