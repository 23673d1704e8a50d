"""Batched direct get: reads a range of a stream without a consumer, which a node's rights allow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from shared import subjects
from shared.errors import BrokerAway

ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class StoredMessage:
    """A message of a stream, with headers such as Nats-Sequence and Nats-Time-Stamp."""

    subject: str
    sequence: int
    body: bytes
    headers: dict[str, str]


def headers_of(message: Msg) -> dict[str, str]:
    """Return a message's headers by their plain names: nats-py gives some as members of an enum."""
    return {
        str(getattr(key, "value", key)): value for key, value in (message.headers or {}).items()
    }


def stream_time(text: str | None) -> datetime:
    """Read a Nats-Time-Stamp: RFC 3339 with up to nine decimals. 1970 when there is none."""
    if not text:
        return datetime.fromtimestamp(0, UTC)
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00")


async def get_batch(
    client: Client, stream: str, start: int, count: int, subject: str, max_bytes: int = 4_000_000
) -> list[StoredMessage]:
    """Return up to ``count`` messages of ``subject`` (wildcards allowed) from sequence
    ``start``, in order.

    Empty when there is none from there on. BrokerAway without an answer, or with one that does
    not fit the question."""
    request = {"seq": start, "batch": count, "max_bytes": max_bytes, "next_by_subj": subject}
    return await _request_batch(
        client, subjects.direct_get(stream), json.dumps(request).encode(), start, count
    )


async def get_last(client: Client, stream: str, subject: str) -> StoredMessage | None:
    """Return the last message of one subject.

    The request carries the subject in its own subject, for users with narrow rights."""
    found = await _request_batch(
        client, f"{subjects.direct_get(stream)}.{subject}", b"", single=True
    )
    return found[0] if found else None


def sequence_of(headers: Mapping[str, str]) -> int:
    """Return the message's sequence in its stream, 0 without one. Headers are not signed: check
    what depends on it."""
    number = headers.get("Nats-Sequence", "")
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else 0


async def _request_batch(
    client: Client, api: str, body: bytes, start: int = 1, count: int = 1, *, single: bool = False
) -> list[StoredMessage]:
    inbox = client.new_inbox()
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await client.subscribe(inbox, cb=arrived.put)
    found: list[StoredMessage] = []
    try:
        await client.publish(api, body, reply=inbox)
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that meets an arrival.
            async with asyncio.timeout(ANSWER_SECONDS):
                message = await arrived.get()
            headers = headers_of(message)
            status = headers.get("Status")
            if status in ("204", "404"):
                return found
            if status is not None:
                raise BrokerAway(f"{api} answered {status} {headers.get('Description', '')}")
            sequence = sequence_of(headers)
            # Whoever reads on from the last one must get further, and come to an end.
            if sequence < start or len(found) == count:
                raise BrokerAway(f"{api} answered what was not asked for")
            start = sequence + 1
            found.append(StoredMessage(headers["Nats-Subject"], sequence, message.data, headers))
            if single:
                return found
    except (NatsError, OSError, TimeoutError, KeyError) as error:
        raise BrokerAway(f"{api} does not answer ({type(error).__name__})") from None
    finally:
        with suppress(NatsError):
            await subscription.unsubscribe()
