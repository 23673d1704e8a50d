"""Private keys in clear, in a field that is for something else: gone before a command is stored
anywhere. Pure."""

from __future__ import annotations

import json
from copy import copy
from typing import Any, Final

from shared.crypto.key_detection import contains_private_key
from shared.messaging.delivery import Delivery

EMPTY_KEY: Final = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"
"""In place of a PEM text that holds a key: whoever judges it still finds that there was one."""
_PEM_FIELDS: Final = frozenset({"certificate", "roots"})


def without_keys(delivery: Delivery) -> Delivery:
    """The same delivery where nothing was found. Otherwise each text that holds a key is gone; a
    body that is no JSON stays as it is: it becomes a dead letter, which keeps no such body."""
    # One look at all of it, for nearly always there is nothing.
    whole = "|".join(delivery.headers.values()).encode(errors="replace") + b"|" + delivery.body
    if not contains_private_key(whole):
        return delivery
    headers = {name: value for name, value in delivery.headers.items() if not _holds(value)}
    found = contains_private_key(delivery.body)
    if not found and len(headers) == len(delivery.headers):
        return delivery
    cleaned = copy(delivery)
    cleaned.body, cleaned.headers = _without(delivery.body) if found else delivery.body, headers
    return cleaned


def _without(body: bytes) -> bytes:
    try:
        return json.dumps(_clean(json.loads(body), "")).encode()
    except (ValueError, RecursionError):
        return body


def _clean(value: Any, field: str) -> Any:
    if isinstance(value, dict):
        return {"?" if _holds(name) else name: _clean(of_it, name) for name, of_it in value.items()}
    if isinstance(value, list):
        return [_clean(of_it, field) for of_it in value]
    if isinstance(value, str) and _holds(value):
        return EMPTY_KEY if field in _PEM_FIELDS else "?"
    return value


def _holds(text: str) -> bool:
    return contains_private_key(text.encode(errors="replace"))
