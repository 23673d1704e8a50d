"""The operator's queries about a service's own dead letters: list, show, replay, drop."""

from __future__ import annotations

from collections.abc import Mapping

from faststream.nats import NatsRouter
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from shared import catalogue, subjects
from shared.contracts.findings import Code, finding
from shared.contracts.queries import DeadDone, DeadLetter, DeadPage, ListDead, OneDead
from shared.errors import BrokerAway, Poison, Refused
from shared.ids import new_id
from shared.messages import Outgoing, StreamPosition
from shared.messaging.consumer import Handler
from shared.messaging.dead_letters import SETTLED
from shared.messaging.delivery import Delivery
from shared.messaging.direct_get import StoredMessage, get_batch, stream_time
from shared.messaging.publisher import Publisher
from shared.messaging.rpc import answer

PAGE_BYTES = 400_000


class DeadLetterService:
    """The dead letters of one service.

    ``local`` maps a source (a name of subjects.DEAD_OWNERS) to the handler of its messages here.
    A service may not publish the events of others, and a replayed event would reach every
    consumer: such a dead letter is handled again by its owner alone."""

    def __init__(
        self,
        client: Client,
        publisher: Publisher,
        service: str,
        local: Mapping[str, Handler] | None = None,
    ) -> None:
        self._client, self._publisher = client, publisher
        self._local = {subjects.dead(source): handle for source, handle in (local or {}).items()}
        self._js = client.jetstream(timeout=5)
        self._subjects = [subjects.dead(source) for source in subjects.DEAD_OWNERS[service]]

    async def list(self, question: ListDead) -> DeadPage:
        """List dead letters in order of sequence; ``next`` is the ``after`` of the next page."""
        letters: list[DeadLetter] = []
        for subject in self._subjects:
            letters += [
                _dead_letter_of(m)
                for m in await get_batch(
                    self._client,
                    subjects.STREAM_DEAD,
                    question.after + 1,
                    question.limit,
                    subject,
                    PAGE_BYTES,
                )
            ]
        letters.sort(key=lambda letter: letter.sequence)
        page: list[DeadLetter] = []
        size = 0
        for letter in letters[: question.limit]:
            size += len(letter.encode())
            if page and size > PAGE_BYTES:
                break
            page.append(letter)
        more = bool(page) and (len(page) < len(letters) or len(page) == question.limit)
        return DeadPage(letters=page, next=page[-1].sequence if more else None)

    async def show(self, question: OneDead) -> DeadLetter:
        """Return one dead letter. Refused (dead.unknown) when there is none."""
        return _dead_letter_of(await self._find_letter(question.sequence))

    async def replay(self, question: OneDead) -> DeadDone:
        """Publish the message again, or handle it here, then delete the dead letter."""
        message = await self._find_letter(question.sequence)
        if message.headers.get("edgetls-body") != "kept":
            raise Refused([finding(Code.DEAD_BODILESS)])
        if SETTLED in message.headers:
            raise Refused([finding(Code.DEAD_SETTLED)])
        if handle := self._local.get(message.subject):
            try:
                await handle(_rebuild_delivery(message))
            except Poison as error:
                raise Refused(
                    [finding(Code.DEAD_STILL_REFUSED, f"{error.reason}: {error}")]
                ) from None
            await self._publisher.erase(subjects.STREAM_DEAD, question.sequence)
            return DeadDone(sequence=question.sequence, done="replayed")
        headers = {
            k: v for k, v in message.headers.items() if not k.startswith(("edgetls-", "Nats-"))
        }
        headers["Nats-Msg-Id"] = f"replay:{new_id()}"
        await self._publisher.publish(
            Outgoing(message.headers["edgetls-subject"], message.body, headers)
        )
        await self._publisher.erase(subjects.STREAM_DEAD, question.sequence)
        return DeadDone(sequence=question.sequence, done="replayed")

    async def drop(self, question: OneDead) -> DeadDone:
        """Delete a dead letter."""
        await self._find_letter(question.sequence)
        await self._publisher.erase(subjects.STREAM_DEAD, question.sequence)
        return DeadDone(sequence=question.sequence, done="dropped")

    async def _find_letter(self, sequence: int) -> StoredMessage:
        try:
            found = await self._js.get_msg(subjects.STREAM_DEAD, seq=sequence, direct=True)
        except NotFoundError:
            found = None
        except (NatsError, APIError, OSError) as error:
            raise BrokerAway(f"DEAD does not answer: {type(error).__name__}") from None
        if found is None or found.subject not in self._subjects:
            raise Refused([finding(Code.DEAD_UNKNOWN)])
        return StoredMessage(found.subject, sequence, found.data or b"", dict(found.headers or {}))


def dead_letter_router(service: str, dead_letters: DeadLetterService) -> NatsRouter:
    """Bind the operator's questions about a service's own dead letters."""
    router = NatsRouter()
    answer(router, catalogue.RPC_DEAD_LIST[service], dead_letters.list)
    answer(router, catalogue.RPC_DEAD_SHOW[service], dead_letters.show)
    answer(router, catalogue.RPC_DEAD_REPLAY[service], dead_letters.replay)
    answer(router, catalogue.RPC_DEAD_DROP[service], dead_letters.drop)
    return router


def _rebuild_delivery(message: StoredMessage) -> Delivery:
    """Rebuild the delivery; it has no ack subject, because no stream waits for its ack."""
    headers = message.headers
    own = {k: v for k, v in headers.items() if not k.startswith(("edgetls-", "Nats-"))}
    sequence = headers.get("edgetls-sequence", "0")
    place = StreamPosition(
        headers.get("edgetls-stream", ""),
        int(sequence) if sequence.isdecimal() else 0,
        stream_time(headers.get("Nats-Time-Stamp")),
    )
    return Delivery.of(headers.get("edgetls-subject", ""), message.body, own, place)


def _dead_letter_of(message: StoredMessage) -> DeadLetter:
    headers = message.headers
    kept = headers.get("edgetls-body") == "kept"
    return DeadLetter(
        sequence=message.sequence,
        stream=headers.get("edgetls-stream", ""),
        subject=headers.get("edgetls-subject", message.subject),
        reason=headers.get("edgetls-reason", ""),
        headers={k: v for k, v in headers.items() if k.startswith("ce-")},
        body=message.body.decode(errors="replace")[:100_000] if kept else None,
        time=stream_time(headers.get("Nats-Time-Stamp")),
    )
