"""Keys and certificates in text that is no PEM: armour mistyped or damaged, or of another program
(rule D3). Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from services.validator.text.other_formats import Form, by_body, by_text

KEY_FORMS = (Form.KEY, Form.ENCRYPTED_KEY)
_MARKS_OF_A_KEY = re.compile(
    r"(?:BEGIN|END)[A-Z0-9]{0,40}?PRIVATEKEY|PUTTYUSERKEYFILE|PRIVATELINES"
    r"|PRIVATEKEY[0-9]{3,5}BIT|PRIVATEEXPONENT"  # as ``openssl pkey -text`` prints one
)
_MARKS_OF_A_CERTIFICATE = re.compile(r"(?:BEGIN|END)(?:X509|TRUSTED)?CERTIFICATE(?!REQUEST)")
_PLAIN_KEY = re.compile(
    r'"d"\s*:\s*"[A-Za-z0-9_-]{20}'  # JWK
    r"|<D>\s*[A-Za-z0-9+/]{20}"  # XML
    r"|b3BlbnNzaC1rZXktdj"  # OpenSSH
)
_NO_LETTER = re.compile(r"[^A-Za-z0-9]+")
_SEQUENCE = re.compile(r"(?<![A-Za-z0-9+/])M[A-P][A-Za-z0-9+/]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_HEAD, _ENOUGH = 120, 24


def key_in(text: str) -> bool:
    """Whether a private key, or its armour, stands anywhere in ``text``."""
    return bool(
        _MARKS_OF_A_KEY.search(_NO_LETTER.sub("", text).upper())
        or _PLAIN_KEY.search(text)
        or any(form in KEY_FORMS for form in _forms(text))
    )


def certificate_in(text: str) -> bool:
    """Whether a certificate, or its armour, stands anywhere in ``text``."""
    return bool(
        _MARKS_OF_A_CERTIFICATE.search(_NO_LETTER.sub("", text).upper())
        or Form.CERTIFICATE in _forms(text)
    )


def _forms(text: str) -> Iterator[Form | None]:
    """What the whole turns out to be, and every run of base64 that begins as DER does."""
    yield by_text(text.strip("\n"))
    for start in _SEQUENCE.finditer(text):
        bare = "".join(text[start.start() : start.start() + _HEAD].split())
        run = _BASE64.match(bare)
        packed = run[0] if run else ""
        if len(packed) >= _ENOUGH:
            yield by_body(base64.b64decode(packed[: len(packed) // 4 * 4]))
