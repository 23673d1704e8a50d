"""CloudEvents 1.0, binary mode, in NATS headers."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

from shared.contracts.base import Contract
from shared.ids import new_id
from shared.messages import Outgoing


def outgoing(
    subject: str,
    body: Contract,
    *,
    source: str,
    about: str,
    at: datetime,
    id: str | None = None,  # the CloudEvents attribute's own name
    cause: str | None = None,
    traceparent: str | None = None,
    dedupe: bool = True,
) -> Outgoing:
    """Build a message with CloudEvents headers.

    ``about``: the domain or account. ``cause``: the id of the message that caused this one.
    ``dedupe`` sets Nats-Msg-Id to the id and a hash of the body, so that the same id with
    another content arrives and is reported. Usage carries none: the database decides."""
    data = body.encode()
    identity = id or new_id()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": identity,
        "ce-type": event_type(subject),
        "ce-source": source,
        "ce-subject": about,
        "ce-time": at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
    }
    if cause:
        headers["ce-causationid"] = cause
    if traceparent:
        headers["traceparent"] = traceparent
    if dedupe:
        headers["Nats-Msg-Id"] = f"{identity}:{sha256(data).hexdigest()[:16]}"
    return Outgoing(subject, data, headers)


def event_type(subject: str) -> str:
    """Return the ``ce-type`` of a subject: the subject itself, without a node's id."""
    tokens = subject.split(".")
    if "v1" in tokens:
        tokens = tokens[: tokens.index("v1") + 1]
    return ".".join(tokens)
