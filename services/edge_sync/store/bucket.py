"""One KV bucket, raw: nodes' rights forbid the library's way of binding to one, and this is the
same data.

Every fault is BrokerAway, but Moved: the subject's last message is another than the writer knew."""

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
PAGE = 500
_WRONG_LAST_SEQUENCE = 10071
_NO_MESSAGE = 10037


class Moved(EdgetlsError):
    """Somebody else wrote this key since it was read."""


class BucketInfo(NamedTuple):
    """``incarnation``: when the stream was made, as the server writes it; ``sequence``: its
    last."""

    incarnation: str
    sequence: int


class Bucket:
    def __init__(self, client: Client, name: str) -> None:
        self._client, self.name = client, name
        self._stream = subjects.kv_stream(name)
        self._js = client.jetstream(timeout=ATTEMPT_SECONDS)

    def key_of(self, message: StoredMessage) -> str:
        return message.subject.removeprefix(subjects.kv_subject(self.name, ""))

    async def info(self) -> BucketInfo:
        answer = await self._api(subjects.js_stream_info(self._stream), {})
        if "error" in answer:
            raise BrokerAway(f"{self._stream}: {answer['error'].get('description', 'unknown')}")
        return BucketInfo(str(answer["created"]), int(answer["state"]["last_seq"]))

    async def put(self, key: str, body: bytes, expected: int) -> int:
        """The sequence. ``expected``: the key's last sequence, 0 for none; Moved when it is
        another."""
        self._reachable()
        headers = {str(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(expected)}
        try:
            subject = subjects.kv_subject(self.name, key)
            stored = await self._js.publish(subject, body, timeout=ATTEMPT_SECONDS, headers=headers)
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise Moved(key) from None
            raise BrokerAway(f"{self._stream} did not store {key}: {error.description}") from None
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(
                f"{self._stream} did not store {key}: {type(error).__name__}"
            ) from None
        return stored.seq

    async def erase(self, sequence: int) -> None:
        """The server overwrites the message's bytes; no message tells of it. Idempotent."""
        answer = await self._api(subjects.js_message_delete(self._stream), {"seq": sequence})
        error = answer.get("error", {})
        gone = error.get("err_code") == _NO_MESSAGE or "no message found" in error.get(
            "description", ""
        )
        if error and not gone:
            raise BrokerAway(
                f"{self._stream} did not erase {sequence}: {error.get('description', 'unknown')}"
            )

    async def last(self, key: str) -> StoredMessage | None:
        self._reachable()
        return await get_last(self._client, self._stream, subjects.kv_subject(self.name, key))

    async def read(self, start: int) -> AsyncIterator[list[StoredMessage]]:
        """Everything from sequence ``start`` on, in batches, in order."""
        while True:
            self._reachable()
            batch = await get_batch(
                self._client, self._stream, start, PAGE, subjects.kv_all(self.name)
            )
            if not batch:
                return
            yield batch
            start = batch[-1].sequence + 1

    async def _api(self, subject: str, question: dict[str, Any]) -> dict[str, Any]:
        self._reachable()
        try:
            reply = await self._client.request(
                subject, json.dumps(question).encode(), timeout=ATTEMPT_SECONDS
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerAway(f"{self._stream} does not answer: {type(error).__name__}") from None
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    def _reachable(self) -> None:
        """What is sent while the connection is down would be stored after it, when nobody counts on
        it any more."""
        if not self._client.is_connected:
            raise BrokerAway("NATS is away")
