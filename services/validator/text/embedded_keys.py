"""Private keys and certificates that hide in text which is not readable PEM (rule D3).

Their armour may be mistyped, damaged, missing, or another program's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from services.validator.text.other_formats import OtherFormat, format_of_der, format_of_text
from services.validator.text.transport_damage import find_encoded_pem, repair_text

KEY_FORMATS = (OtherFormat.KEY, OtherFormat.ENCRYPTED_KEY)
# These patterns match text in upper case without anything but letters and digits, so damaged
# dashes, spaces and line breaks make no difference.
_KEY_ARMOUR = re.compile(
    r"(?:BEGIN|END)[A-Z0-9]{0,40}?PRIVATEKEY|PUTTYUSERKEYFILE|PRIVATELINES"
    r"|PRIVATEKEY[0-9]{3,5}BIT|PRIVATEEXPONENT"  # as ``openssl pkey -text`` prints one
)
_CERTIFICATE_ARMOUR = re.compile(r"(?:BEGIN|END)(?:X509|TRUSTED)?CERTIFICATE(?!REQUEST)")
_PLAIN_KEY = re.compile(
    r'"d"\s*:\s*"[A-Za-z0-9_-]{20}'  # JWK
    r"|<D>\s*[A-Za-z0-9+/]{20}"  # XML
    r"|b3BlbnNzaC1rZXktdj"  # OpenSSH
)
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
# The base64 of a DER SEQUENCE (0x30) begins with M and a letter from A to P.
_SEQUENCE_START = re.compile(r"(?<![A-Za-z0-9+/])M[A-P][A-Za-z0-9+/]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_INSPECTED_LENGTH = 120
_MIN_BASE64_LENGTH = 24


def contains_key(text: str) -> bool:
    """Check whether a private key, or its armour, is anywhere in ``text``."""
    return any(map(_shows_key, _readings(text)))


def _shows_key(text: str) -> bool:
    if _KEY_ARMOUR.search(_letters_and_digits(text)) or _PLAIN_KEY.search(text):
        return True
    return any(found in KEY_FORMATS for found in _embedded_formats(text))


def _readings(text: str) -> Iterator[str]:
    """Yield ``text``, what it was before it was damaged, and what its base64 of PEM holds."""
    yield text
    repaired = repair_text(text).text
    if repaired != text:
        yield repaired
    yield from find_encoded_pem(text)


def contains_certificate(text: str) -> bool:
    """Check whether a certificate, or its armour, is anywhere in ``text``."""
    return any(map(_shows_certificate, _readings(text)))


def _shows_certificate(text: str) -> bool:
    if _CERTIFICATE_ARMOUR.search(_letters_and_digits(text)):
        return True
    return OtherFormat.CERTIFICATE in _embedded_formats(text)


def _letters_and_digits(text: str) -> str:
    return _SEPARATORS.sub("", text).upper()


def _embedded_formats(text: str) -> Iterator[OtherFormat | None]:
    """Yield the format of the whole text, and of every run of base64 that begins as DER does.

    Only the beginning of each run is decoded, so the time is linear in the length of the text.
    """
    yield format_of_text(text.strip("\n"))
    for start in _SEQUENCE_START.finditer(text):
        without_space = "".join(text[start.start() : start.start() + _INSPECTED_LENGTH].split())
        run = _BASE64.match(without_space)
        encoded = run[0] if run else ""
        if len(encoded) >= _MIN_BASE64_LENGTH:
            yield format_of_der(base64.b64decode(encoded[: len(encoded) // 4 * 4]))
