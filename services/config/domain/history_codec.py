"""The part of an event that history keeps: its rows rebuild the other tables, all but the pairs.
Pure.

A disable deletes what could be left of the certificates before it (rule B3): what they were does
not matter after it.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from pydantic import TypeAdapter

from services.config.domain.events import (
    Deleted,
    Disabled,
    Installed,
    Registered,
    Removed,
    RolledBack,
    SettingsChanged,
    Stored,
    SuspensionChanged,
)
from services.config.domain.model import Cause

RecordedEvent = (
    Registered
    | Removed
    | Installed
    | RolledBack
    | Disabled
    | SettingsChanged
    | SuspensionChanged
    | Stored
    | Deleted
)
# The names of these classes are stored: a class that is renamed keeps its old name here.
_ADAPTERS: Final[dict[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind) for kind in get_args(RecordedEvent)
}


def encode_event(event: RecordedEvent, *, certificate: bool = True) -> str:
    """Return an event as JSON with its kind, without its cause: history has columns for that.

    ``certificate`` False leaves the certificate out: a disable came after it."""
    kind = type(event).__name__
    left_out: dict[str, Any] = {"cause": True, "certificate": {"pairs"} if certificate else True}
    fields = _ADAPTERS[kind].dump_json(event, exclude=left_out).decode()
    return f'{{"kind":"{kind}"}}' if fields == "{}" else f'{{"kind":"{kind}",{fields[1:]}'


def decode_event(recorded: dict[str, Any], cause: Cause) -> RecordedEvent:
    """Return the event of a history row. Its certificate has no pairs, and no name where a disable
    came after it."""
    fields = {**recorded, "cause": cause}
    kind = fields.pop("kind")
    if kind in (Installed.__name__, Stored.__name__):
        fields["certificate"] = {"submission_id": "", **fields.get("certificate", {}), "pairs": ()}
    event: RecordedEvent = _ADAPTERS[kind].validate_python(fields)
    return event
