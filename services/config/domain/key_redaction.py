"""Private keys in clear, in a field that is for something else: removed before a command is stored
anywhere. Pure."""

from __future__ import annotations

import json
from copy import copy
from typing import Any, Final

from shared.crypto.key_detection import contains_private_key
from shared.messaging.delivery import Delivery

# Stands in place of a PEM text that holds a key: the validator still finds that there was one, and
# refuses the submission for it.
EMPTY_KEY: Final = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"
_PEM_FIELDS: Final = frozenset({"certificate", "roots"})


def remove_keys(delivery: Delivery) -> Delivery:
    """Return the same delivery where no key was found, otherwise a copy without them.

    A body that is no JSON stays as it is: it becomes a dead letter, which keeps no such body."""
    # One look at all of it: nearly always there is nothing.
    whole = "|".join(delivery.headers.values()).encode(errors="replace") + b"|" + delivery.body
    if not contains_private_key(whole):
        return delivery
    headers = {}
    for name, value in delivery.headers.items():
        if not _contains_key(value):
            headers[name] = value
    key_in_body = contains_private_key(delivery.body)
    if not key_in_body and len(headers) == len(delivery.headers):
        return delivery
    cleaned = copy(delivery)
    cleaned.headers = headers
    if key_in_body:
        cleaned.body = _clean_body(delivery.body)
    return cleaned


def _clean_body(body: bytes) -> bytes:
    try:
        return json.dumps(_clean_value(json.loads(body), "")).encode()
    except (ValueError, RecursionError):
        return body


def _clean_value(value: Any, field: str) -> Any:
    if isinstance(value, dict):
        cleaned = {}
        for name, item in value.items():
            cleaned["?" if _contains_key(name) else name] = _clean_value(item, name)
        return cleaned
    if isinstance(value, list):
        return [_clean_value(item, field) for item in value]
    if isinstance(value, str) and _contains_key(value):
        return EMPTY_KEY if field in _PEM_FIELDS else "?"
    return value


def _contains_key(text: str) -> bool:
    return contains_private_key(text.encode(errors="replace"))
