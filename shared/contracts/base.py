"""The base of every message body: frozen, strict about unknown fields, silent about its input."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer


class Contract(BaseModel):
    """A JSON message body. Input never appears in a validation error (it may be a key)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def encode(self) -> bytes:
        """Canonical bytes: field order as declared, no white space, UTF-8."""
        return self.model_dump_json().encode()


def _to_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its zone (RFC 3339)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time outside the years 1 to 9999") from None


def _plain_decimal(value: Decimal) -> str:
    return format(value, "f")


def _check_finite(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("an amount must be a finite number")
    return value


def _check_storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("U+0000 is in no name")
    return text


Utc = Annotated[datetime, AfterValidator(_to_utc)]
Amount = Annotated[
    Decimal,
    Field(max_digits=38, decimal_places=18),
    AfterValidator(_check_finite),
    PlainSerializer(_plain_decimal, return_type=str),
]
Account = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
]
Identifier = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")
]
NodeId = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
]
Name = Annotated[str, Field(min_length=1, max_length=253)]
# A search text of a list, or the position after which it goes on.
Search = Annotated[str, Field(max_length=400), AfterValidator(_check_storable)]
Base64 = Annotated[str, Field(max_length=200_000, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A count, sequence or revision that every JSON reader and a bigint column hold exactly.
Whole = Annotated[int, Field(ge=0, le=2**53)]
Epoch = Annotated[int, Field(ge=0, le=2**31 - 1)]
# The position at which a page begins: the ``next`` of the page before.
Mark = Annotated[str, Field(max_length=2000)]
Labels = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]],
    Field(max_length=64),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
# A time zone of the IANA database, such as ``Asia/Shanghai``.
Zone = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$")]


class Signed(Contract):
    """Exact bytes with an Ed25519 signature over ``purpose NUL payload``
    (shared/crypto/signing.py)."""

    key_id: Identifier
    payload: Annotated[str, Field(max_length=1_000_000)]
    signature: Base64


class SealedKey(Contract):
    """A private key, or a text that may hold one, sealed with HPKE to one recipient.

    ``epoch`` is 0 when the recipient is the submission key."""

    epoch: Epoch
    box: Base64
