"""Dead letters: messages that cannot be handled, kept in DEAD with the reason.

One limit holds for every consumer. Poison from outside is judged message by message and has none.
A message that failed for a fault of ours may not be the last one: past the limit a consumer stops
taking, instead of draining its queue into DEAD.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import structlog

from shared import catalogue, subjects
from shared.crypto.key_detection import contains_private_key
from shared.errors import DeadLetterLimitReached
from shared.faults import raised_at
from shared.messages import Outgoing
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.observability.metrics import DEAD_LETTER_LIMIT_REACHED, DEAD_LETTERS
from shared.streams import ERASABLE_STREAMS, MAX_MESSAGE_BYTES

log = structlog.get_logger()
# Messages that one process may move to DEAD for a fault of ours within LIMIT_SECONDS.
MAX_UNEXPECTED: Final = 50
LIMIT_SECONDS: Final = 600.0
PUBLISH_SECONDS: Final = 30.0
# Header of a dead letter whose message counts as done under its id: a replay would do nothing.
SETTLED: Final = "edgetls-settled"
# The largest body that a dead letter keeps. The rest of the message is for its headers.
MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES - 16 * 1024
_KEPT_HEADERS: Final = frozenset(
    {
        "ce-specversion",
        "ce-id",
        "ce-type",
        "ce-source",
        "ce-subject",
        "ce-time",
        "ce-causationid",
        "traceparent",
        "content-type",
    }
)
_MAX_HEADER_CHARACTERS: Final = 256
_MAX_REASON_CHARACTERS: Final = 1000
_TOO_LARGE: Final = "too large"
_CLEAR_KEY: Final = "key in clear"
_SEALED_KEY: Final = "sealed key"


class DeadLetters:
    """Publishes messages under ``https.dead.<source>``; ``source``: a name in DEAD_OWNERS."""

    def __init__(
        self, publisher: Publisher, source: str, *, max_unexpected: int = MAX_UNEXPECTED
    ) -> None:
        self._publisher = publisher
        self.source = source
        self._max_unexpected = max_unexpected
        self._unexpected: deque[float] = deque()
        self._show_limit_reached(False)

    async def add(
        self, delivery: Delivery, reason: str, *, identity: str = "", settled: bool = False
    ) -> None:
        """Keep a message in DEAD; return when it is stored there.

        ``reason`` is ``code: sentence`` and never quotes the body. ``identity`` names a message
        that is kept once however often it is delivered; without it that is its place in the stream.
        ``settled``: under its id it counts as done, so that a replay would do nothing."""
        headers = _kept_headers(delivery.headers)
        headers["edgetls-stream"] = delivery.stream
        headers["edgetls-sequence"] = str(delivery.sequence)
        headers["edgetls-subject"] = delivery.subject
        headers["edgetls-reason"] = " ".join(reason.split())[:_MAX_REASON_CHARACTERS]
        headers["Nats-Msg-Id"] = f"dead:{identity or _position_text(delivery)}"
        if settled:
            headers[SETTLED] = "yes"
        headers.setdefault("ce-id", headers["Nats-Msg-Id"])
        dropped = _why_body_is_dropped(delivery)
        body = b""
        if dropped is None:
            body = delivery.body
            headers["edgetls-body"] = "kept"
        else:
            headers |= _headers_in_place_of_body(delivery.body, dropped)
        if dropped in (_TOO_LARGE, _CLEAR_KEY):
            size = f"{len(delivery.body):,} bytes"
            headers["edgetls-reason"] += f" (its body of {size} is not kept: {dropped})"
        letter = Outgoing(subjects.dead(self.source), body, headers)
        await self._publisher.publish(letter, timeout=PUBLISH_SECONDS)
        # The broker frees disk by whole block files only, so a key in clear is erased by itself.
        if dropped == _CLEAR_KEY and delivery.reply and delivery.stream in ERASABLE_STREAMS:
            await self._publisher.erase(delivery.stream, delivery.sequence)
        DEAD_LETTERS.labels(source=self.source).inc()
        log.warning(
            "dead_letter.added",
            source=self.source,
            subject=delivery.subject,
            reason=headers["edgetls-reason"],
        )

    async def add_unexpected(
        self, delivery: Delivery, error: Exception, *, settled: bool = False
    ) -> None:
        """Keep a message that failed for a fault of ours.

        DeadLetterLimitReached, a transient fault, when too many did lately: the message stays in
        its stream, and the consumer tries it again until the limit allows it."""
        log.error(
            "message.failed",
            error=type(error).__name__,
            subject=delivery.subject,
            where=raised_at(error),
        )
        self._check_limit()
        await self.add(delivery, f"unexpected: {type(error).__name__}", settled=settled)
        self._unexpected.append(time.monotonic())

    def _check_limit(self) -> None:
        oldest_counted = time.monotonic() - LIMIT_SECONDS
        while self._unexpected and self._unexpected[0] < oldest_counted:
            self._unexpected.popleft()
        if len(self._unexpected) < self._max_unexpected:
            return
        self._show_limit_reached(True)
        raise DeadLetterLimitReached(
            f"{len(self._unexpected)} messages of {self.source} became dead letters for a fault"
            f" of this service within {LIMIT_SECONDS:g} s: its consumer takes no more, and no"
            " message is lost. Read the log and 'edgetls dead list', then mend the service"
        )

    def message_settled(self) -> None:
        """Note that a message was handled or kept: a consumer that had stopped goes on."""
        if self._limit_reached:
            self._show_limit_reached(False)

    def _show_limit_reached(self, reached: bool) -> None:
        self._limit_reached = reached
        DEAD_LETTER_LIMIT_REACHED.labels(source=self.source).set(reached)


def _kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Keep headers that mean something here: any other one may hold anything, of any length."""
    kept = {}
    for name, value in headers.items():
        if name in _KEPT_HEADERS and not contains_private_key(value.encode(errors="replace")):
            kept[name] = value[:_MAX_HEADER_CHARACTERS]
    return kept


def _why_body_is_dropped(delivery: Delivery) -> str | None:
    if contains_private_key(delivery.body):
        return _CLEAR_KEY
    row = catalogue.BY_SUBJECT.get(delivery.subject)
    if row is not None and row.carries_key:
        return _SEALED_KEY
    if len(delivery.body) > MAX_BODY_BYTES:
        return _TOO_LARGE
    return None


def _headers_in_place_of_body(body: bytes, why: str) -> dict[str, str]:
    return {
        "edgetls-body": "dropped",
        "edgetls-body-dropped": why,
        "edgetls-body-size": str(len(body)),
        "edgetls-body-sha256": sha256(body).hexdigest(),
    }


def _position_text(delivery: Delivery) -> str:
    return f"{delivery.stream}:{delivery.sequence}:{delivery.stream_time.timestamp()}"
