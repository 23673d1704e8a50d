"""What the history keeps of a change, so that its rows rebuild what stands in the others: all but
the pairs. Pure.

A disable drops of the certificates before it what could be left (rule B3): what they were does not
matter after it.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from pydantic import TypeAdapter

from services.config.domain.commands import (
    Disabled,
    Installed,
    Registered,
    Removed,
    RolledBack,
    SettingsChanged,
    SuspensionChanged,
)
from services.config.domain.library_entry import Deleted, Stored
from services.config.domain.model import Cause

Change = (
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
_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind) for kind in get_args(Change)
}


def kept(event: Change) -> dict[str, Any]:
    """As JSON, with its kind and without its cause, which the history's own columns tell."""
    kind = type(event).__name__
    fields = _KINDS[kind].dump_python(
        event, mode="json", exclude={"cause": True, "certificate": {"pairs"}}
    )
    return {"kind": kind, **fields}


def change(told: dict[str, Any], cause: Cause) -> Change:
    """The event again; its certificate has no pairs, and no name where a disable came after it."""
    fields = {**told, "cause": cause}
    kind = fields.pop("kind")
    if kind in (Installed.__name__, Stored.__name__):
        fields["certificate"] = {"submission_id": "", **fields.get("certificate", {}), "pairs": ()}
    found: Change = _KINDS[kind].validate_python(fields)
    return found
