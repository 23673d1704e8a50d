"""Files and values that people name on the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from shared.errors import SettingsError

_MOST_BYTES: Final = 150_000
_MOST_PAIRS: Final = 2


def read_text(path: Path, what: str) -> str:
    """A certificate or key file. One that is not text (DER, PKCS#12) is passed on as it is, a
    character a byte, so that the validator can say what it is and how to convert it. SettingsError
    when it cannot be read or is far too large."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(
                f"{what} {path} has more than {_MOST_BYTES} bytes: it is no PEM chain or key"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {what} {path}: {os.strerror(error.errno or 0)}") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_pairs(certificates: Sequence[Path], keys: Sequence[Path]) -> list[tuple[str, str]]:
    """The first --cert belongs to the first --key, the second to the second: RSA and ECDSA side by
    side."""
    if len(certificates) != len(keys) or len(keys) > _MOST_PAIRS:
        raise SettingsError(
            "name one --cert with one --key, or two of each: the RSA pair and the ECDSA pair"
        )
    return [
        (read_text(certificate, "the certificate"), read_text(key, "the key"))
        for certificate, key in zip(certificates, keys, strict=True)
    ]


def parse_time(text: str, zone: tzinfo = UTC) -> datetime:
    """RFC 3339, or a date or time of ``zone``; in UTC. SettingsError when it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} is not a time: write 2026-05-01T12:00:00Z or 2026-05-01"
        ) from None
    return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
