"""Ids: random for what begins here, derived for what a message causes, so that a redelivery
causes the same id."""

from __future__ import annotations

import uuid

_SPACE = uuid.UUID("6d0f3c1e-5d0a-5a52-9a0b-6d2d2d6f7c11")


def new_id() -> str:
    """Return a random id."""
    return str(uuid.uuid4())


def derived_id(*cause: str) -> str:
    """Return an id that is the same for the same cause."""
    return str(uuid.uuid5(_SPACE, "\0".join(cause)))
