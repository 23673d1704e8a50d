"""From bytes to a contract, without a word of the input in any error."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from pydantic import ValidationError

from shared.contracts.base import Contract
from shared.errors import Malformed

ContractT = TypeVar("ContractT", bound=Contract)
_FIELD_NAME: Final = re.compile(r"[a-z0-9_]{1,30}")
_SHOWN_FIELDS: Final = 5


def parse(model: type[ContractT], body: bytes) -> ContractT:
    """Read ``body`` as ``model``. Malformed names the fields at fault and never the input."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fields = "; ".join(invalid_fields(error)[:_SHOWN_FIELDS])
        raise Malformed(f"not a {model.__name__}: {fields}") from None


def invalid_fields(error: ValidationError) -> list[str]:
    """Return ``place: kind of fault`` of each invalid field, sorted.

    The name of an unknown field and the key of a mapping are input as well: they may be anything,
    a private key too, so they are shown as ``?`` unless they look like a field's name."""
    found = set()
    for fault in error.errors(include_input=False):
        place = ".".join(_shown_part(part) for part in fault["loc"])
        found.add(f"{place}: {fault['type']}")
    return sorted(found)


def _shown_part(part: int | str) -> str:
    return str(part) if _FIELD_NAME.fullmatch(str(part)) else "?"
