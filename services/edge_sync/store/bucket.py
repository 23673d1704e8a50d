"""A KV bucket over plain NATS requests.

nats-py binds to a bucket by requests that the rights of a node forbid; this reads and writes the
same data without them. Every fault is BrokerAway, except for WriteConflict.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import Header
from nats.js.errors import APIError

from shared import subjects
from shared.errors import BrokerAway, EdgetlsError
from shared.messaging.direct_get import StoredMessage, get_batch, get_last

ATTEMPT_SECONDS = 2.0
PAGE_SIZE = 500
_WRONG_LAST_SEQUENCE = 10071
_NO_MESSAGE = 10037


class WriteConflict(EdgetlsError):
    """Another writer has written this key since it was read."""


class BucketInfo(NamedTuple):
    """``incarnation``: when the stream was made, as the server writes it. ``sequence``: its
    last."""

    incarnation: str
    sequence: int


class KvBucket:
    """One KV bucket."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client
        self._stream = subjects.kv_stream(name)
        self._js = client.jetstream(timeout=ATTEMPT_SECONDS)

    def key_of(self, message: StoredMessage) -> str:
        """Return the key that a message of this bucket belongs to."""
        return message.subject.removeprefix(subjects.kv_subject(self.name, ""))

    async def info(self) -> BucketInfo:
        """Return the stream's incarnation and last sequence."""
        answer = await self._request(subjects.js_stream_info(self._stream), {})
        if "error" in answer:
            raise BrokerAway(f"{self._stream}: {answer['error'].get('description', 'unknown')}")
        return BucketInfo(str(answer["created"]), int(answer["state"]["last_seq"]))

    async def put(self, key: str, body: bytes, expected: int) -> int:
        """Put a value and return its sequence.

        ``expected``: the key's last sequence as the caller knows it, 0 for none. The server stores
        nothing and the call raises WriteConflict when it is another."""
        self._check_connected()
        headers = {str(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(expected)}
        try:
            subject = subjects.kv_subject(self.name, key)
            stored = await self._js.publish(subject, body, timeout=ATTEMPT_SECONDS, headers=headers)
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise WriteConflict(key) from None
            raise BrokerAway(f"{self._stream} did not store {key}: {error.description}") from None
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(
                f"{self._stream} did not store {key}: {type(error).__name__}"
            ) from None
        return stored.seq

    async def erase(self, sequence: int) -> None:
        """Delete one message; the server overwrites its bytes. Idempotent. Subscribers of the
        bucket hear nothing of it."""
        answer = await self._request(subjects.js_message_delete(self._stream), {"seq": sequence})
        error = answer.get("error")
        if not error:
            return
        description = error.get("description", "unknown")
        if error.get("err_code") != _NO_MESSAGE and "no message found" not in description:
            raise BrokerAway(f"{self._stream} did not erase {sequence}: {description}")

    async def last(self, key: str) -> StoredMessage | None:
        """Return the last message of a key."""
        self._check_connected()
        return await get_last(self._client, self._stream, subjects.kv_subject(self.name, key))

    async def read_from(self, start: int) -> AsyncIterator[list[StoredMessage]]:
        """Yield every message from sequence ``start`` on, in order, in batches that are not
        empty."""
        while True:
            self._check_connected()
            batch = await get_batch(
                self._client, self._stream, start, PAGE_SIZE, subjects.kv_all(self.name)
            )
            if not batch:
                return
            yield batch
            start = batch[-1].sequence + 1

    async def _request(self, subject: str, question: dict[str, Any]) -> dict[str, Any]:
        self._check_connected()
        try:
            reply = await self._client.request(
                subject, json.dumps(question).encode(), timeout=ATTEMPT_SECONDS
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(f"{self._stream} does not answer: {type(error).__name__}") from None
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    def _check_connected(self) -> None:
        # nats-py keeps what is sent while it is not connected and sends it later. By then the
        # caller has given up, and a put that is in no account would be stored late.
        if not self._client.is_connected:
            raise BrokerAway("NATS is away")
