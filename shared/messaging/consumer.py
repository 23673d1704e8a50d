"""What happens when handling fails: a fault that passes pauses the consumer, poison becomes a dead
letter.

A transient fault is never counted against a message and never dropped. Poison is published to DEAD
with its reason, then acked; of what carries a key, or is too large to be kept, only its headers and
reason are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

import asyncpg
import structlog
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from shared import subjects
from shared.crypto.key_detection import holds_key
from shared.errors import Poison, Transient
from shared.messaging.cloudevents import Delivery, Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health
from shared.observability.metrics import DEAD_LETTERS, HANDLED
from shared.streams import ERASED, MOST_BYTES

log = structlog.get_logger()
_SEALED_CARRIERS = frozenset(
    {
        subjects.CMD_CERTIFICATE_SUBMIT,
        subjects.CMD_CERTIFICATE_STORE,
        subjects.CMD_PAIR_RESEAL,
        subjects.JUDGE_SUBMISSION,
        subjects.VERDICT_SUBMISSION,
    }
)
_HEADERS = frozenset(
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
_LONGEST_HEADER = 256
_TOO_LARGE, _KEY = "too large", "key in clear"
MOST_BODY = MOST_BYTES - 16 * 1024
"""Of a dead letter: its headers stay within the rest."""
_PASSING = (
    Transient,
    OSError,
    TimeoutError,
    NatsError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A login, database or right that was withdrawn while we run: no fault of the message that met
    # it first.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


def passes(error: BaseException) -> bool:
    """Whether trying again later can help: database or broker away, a deadlock, a time-out."""
    return isinstance(error, _PASSING) and not (
        isinstance(error, MaxPayloadError) or _quotes(error)
    )


SETTLED = "edgetls-settled"


class DeadLetters:
    """Buries messages under ``https.dead.<source>``; ``source`` is a name of
    subjects.DEAD_OWNERS."""

    def __init__(self, publisher: Publisher, source: str) -> None:
        self._publisher, self.source = publisher, source

    async def bury(
        self, delivery: Delivery, reason: str, *, identity: str = "", settled: bool = False
    ) -> None:
        """Returns when DEAD has it. ``reason``: ``code: sentence``, never of the body;
        ``identity``: of what is buried once however often it is delivered, else its place in the
        stream; ``settled``: under its id it counts as done, so a replay would do nothing."""
        headers = _kept(delivery.headers) | {
            "edgetls-stream": delivery.stream,
            "edgetls-sequence": str(delivery.sequence),
            "edgetls-subject": delivery.subject,
            "edgetls-reason": " ".join(reason.split())[:1000],
            "Nats-Msg-Id": f"dead:{identity or _place(delivery)}",
        }
        if settled:
            headers[SETTLED] = "yes"
        headers.setdefault("ce-id", headers["Nats-Msg-Id"])
        why = _why_bodiless(delivery)
        headers |= {"edgetls-body": "kept"} if why is None else _in_place_of(delivery.body, why)
        if why in (_TOO_LARGE, _KEY):
            headers["edgetls-reason"] += (
                f" (its body of {len(delivery.body):,} bytes is not kept: {why})"
            )
        body = delivery.body if why is None else b""
        await self._publisher.publish(
            Outgoing(subjects.dead(self.source), body, headers), patience=30
        )
        if why == _KEY and delivery.reply and delivery.stream in ERASED:
            await self._publisher.erase(delivery.stream, delivery.sequence)
        DEAD_LETTERS.labels(source=self.source).inc()
        log.warning(
            "dead_letter",
            source=self.source,
            subject=delivery.subject,
            reason=headers["edgetls-reason"],
        )


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that mean something here: what else a sender wrote may be anything, and as long as the
    body."""
    return {
        name: value[:_LONGEST_HEADER]
        for name, value in headers.items()
        if name in _HEADERS and not holds_key(value.encode(errors="replace"))
    }


def _why_bodiless(delivery: Delivery) -> str | None:
    if holds_key(delivery.body):
        return _KEY
    if delivery.subject in _SEALED_CARRIERS:
        return "sealed key"
    return _TOO_LARGE if len(delivery.body) > MOST_BODY else None


def _in_place_of(body: bytes, why: str) -> dict[str, str]:
    return {
        "edgetls-body": "dropped",
        "edgetls-body-dropped": why,
        "edgetls-body-size": str(len(body)),
        "edgetls-body-sha256": sha256(body).hexdigest(),
    }


def _place(delivery: Delivery) -> str:
    return f"{delivery.stream}:{delivery.sequence}:{delivery.stream_time.timestamp()}"


Handle = Callable[[Delivery], Awaitable[None]]


class Consumer:
    """Takes each delivery of a pull to ``handle``: acked after it returns, buried when it is
    poison.

    ``concurrency`` deliveries at once; 1 keeps their order."""

    def __init__(
        self, pull: Pull, handle: Handle, dead: DeadLetters, health: Health, *, concurrency: int = 1
    ) -> None:
        self._pull, self._handle, self._dead, self._health = pull, handle, dead, health
        self._slots = asyncio.Semaphore(concurrency)
        self._ordered = concurrency == 1

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            async for batch in self._pull.batches():
                for delivery in batch:
                    if self._ordered:
                        await self._settle(delivery)
                    else:
                        await self._slots.acquire()
                        group.create_task(self._settle_and_free(delivery))

    async def _settle_and_free(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery)
        finally:
            self._slots.release()

    async def _settle(self, delivery: Delivery) -> None:
        """Returns when the delivery is acked; waits out every transient fault."""
        name = f"{self._pull.stream}/{self._pull.durable}"
        delay = 0.1
        while True:
            try:
                await handle_or_bury(delivery, self._handle, self._dead)
                await self._pull.ack(delivery)
                self._health.ready(name)
                return
            except Exception as error:
                if not passes(error):
                    raise
                self._health.not_ready(name, describe(error))
                log.warning("consumer.paused", consumer=name, error=describe(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)


async def handle_or_bury(delivery: Delivery, handle: Handle, dead: DeadLetters) -> None:
    """Poison, and whatever else is not transient (a bug of ours), goes to DEAD; transient faults
    are raised."""
    try:
        await handle(delivery)
        HANDLED.labels(subject=subjects.event_type(delivery.subject), outcome="done").inc()
    except Poison as error:
        HANDLED.labels(subject=subjects.event_type(delivery.subject), outcome="dead").inc()
        await dead.bury(delivery, f"{error.reason}: {error}")
    except Exception as error:
        if passes(error):
            raise
        HANDLED.labels(subject=subjects.event_type(delivery.subject), outcome="dead").inc()
        log.error(
            "unexpected", error=type(error).__name__, subject=delivery.subject, where=where(error)
        )
        await dead.bury(delivery, f"unexpected: {type(error).__name__}")


def describe(error: BaseException) -> str:
    """One line without content: some drivers put rows into their messages."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} ({getattr(error, 'sqlstate', '?')})"
    if _quotes(error):
        return type(error).__name__
    return f"{type(error).__name__}: {error}"[:200]


def _quotes(error: BaseException) -> bool:
    """asyncpg's own errors about a value that does not fit its column say the value."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def unforeseen(error: BaseException) -> str:
    """What and where: the text of what is not our own may quote a row or a message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"unexpected {type(error).__name__} at {where(error)}"


def where(error: BaseException) -> str:
    """``function:line`` that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
