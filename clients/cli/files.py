"""Reading the files and times that people name on the command line."""

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
    """Read a certificate or key file. SettingsError when it cannot be read or is far too large.

    A file that is not text (DER, PKCS#12) is passed on byte by byte, one character each, so that
    the validator can tell its format and how to convert it."""
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
    """Read one or two pairs (RSA and ECDSA); the first --cert belongs to the first --key."""
    if len(certificates) != len(keys) or len(keys) > _MOST_PAIRS:
        raise SettingsError(
            "name one --cert with one --key, or two of each: the RSA pair and the ECDSA pair"
        )
    pairs = []
    for certificate, key in zip(certificates, keys, strict=True):
        pairs.append((read_text(certificate, "the certificate"), read_text(key, "the key")))
    return pairs


def parse_time(text: str, zone: tzinfo = UTC) -> datetime:
    """Parse RFC 3339, or a date or time of ``zone``, to UTC; SettingsError when it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} is not a time: write 2026-05-01T12:00:00Z or 2026-05-01"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)
