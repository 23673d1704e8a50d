"""A row of the catalogue: a subject with its body, senders, receivers and answer."""

from __future__ import annotations

from typing import Final, Generic, Literal, TypeVar

from shared.contracts.base import Contract
from shared.subjects import EDGE_SYNC, STREAM_USAGE

Kind = Literal["command", "query", "event", "message"]
KINDS: Final = ("command", "query", "event", "message")
Direction = Literal["receive", "send"]
QuestionT = TypeVar("QuestionT", bound=Contract)
AnswerT = TypeVar("AnswerT", bound=Contract)

# Every row that was made, in order: the catalogue's.
ROWS: Final[list[Subject]] = []


class Subject(str):
    """A row: the subject as NATS routes it (a wildcard for a parameter), with what is known of it.

    ``address`` is the subject with its parameters by name, such as ``https.edge.status.v1.{node}``.
    ``signed`` is the model inside a body that is Signed. ``stream`` keeps the message; None: core
    NATS, lost when no receiver listens. ``carries_key``: the body holds a sealed private key, so no
    dead letter keeps it. ``republished``: the server itself sends it when a bucket changes, and no
    user has the right to."""

    kind: Kind
    address: str
    body: type[Contract]
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    stream: str | None
    signed: type[Contract] | None
    carries_key: bool
    republished: bool

    def __new__(
        cls,
        kind: Kind,
        address: str,
        body: type[Contract],
        *,
        senders: tuple[str, ...],
        receivers: tuple[str, ...],
        stream: str | None = None,
        signed: type[Contract] | None = None,
        carries_key: bool = False,
        republished: bool = False,
    ) -> Subject:
        """``{key}`` at the end of an address stands for several tokens, ``{node}`` for one."""
        row = super().__new__(cls, address.replace("{node}", "*").replace("{key}", ">"))
        row.kind = kind
        row.address = address
        row.body = body
        row.senders = senders
        row.receivers = receivers
        row.stream = stream
        row.signed = signed
        row.carries_key = carries_key
        row.republished = republished
        ROWS.append(row)
        return row

    @property
    def cloud_event(self) -> bool:
        """Whether CloudEvents headers are required: on what streams keep, except for usage."""
        return self.stream is not None and self.stream != STREAM_USAGE

    def for_node(self, node: str) -> str:
        """The subject of one node."""
        return self.address.replace("{node}", node)


class Query(Subject, Generic[QuestionT, AnswerT]):
    """A row of core request/reply: the answer is its model or a Refusal.

    ``every_replica``: each replica hears the question and only the leader answers. Otherwise the
    replicas share a queue group, and any one of them answers."""

    answer: type[AnswerT]
    every_replica: bool

    def __new__(
        cls,
        address: str,
        answerer: str,
        question: type[QuestionT],
        answer: type[AnswerT],
        askers: tuple[str, ...],
    ) -> Query[QuestionT, AnswerT]:
        row = super().__new__(
            cls, "query", address, question, senders=askers, receivers=(answerer,)
        )
        row.answer = answer  # type: ignore[attr-defined]
        row.every_replica = answerer == EDGE_SYNC  # type: ignore[attr-defined]
        return row  # type: ignore[return-value]

    @property
    def answerer(self) -> str:
        """The service that answers."""
        return self.receivers[0]
