"""Domain names (``shared.domain_names``) in the families that they form (rule A2), and names of
certificates. Pure."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from shared.contracts.findings import Code, finding
from shared.domain_names import WILDCARD, a_label, normalise
from shared.errors import Refused

__all__ = [
    "WILDCARD",
    "a_label",
    "check_certificate_name",
    "generate_certificate_name",
    "normalise",
    "parent_name",
    "wildcard_of",
]

_CERTIFICATE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_certificate_name(text: str) -> str:
    """Return a certificate's name (rule B10); Refused with ``certificate.name_invalid``."""
    if _CERTIFICATE_NAME.fullmatch(text) is None:
        raise Refused([finding(Code.CERTIFICATE_NAME_INVALID, field="request")])
    return text


def generate_certificate_name(domain: str, submission_id: str) -> str:
    """Return the name of a certificate that was submitted without one: its domain, then a hash of
    the submission."""
    readable = domain.replace(WILDCARD, "_wildcard")[:100]
    return f"{readable}-{sha256(submission_id.encode()).hexdigest()[:12]}"


def parent_name(name: str) -> str:
    """Return the name without its first label. A wildcard and the hosts that it covers have the
    same parent: they are a family."""
    return name.partition(".")[2]


def wildcard_of(parent: str) -> str:
    """Return the wildcard of a family."""
    return f"{WILDCARD}.{parent}"
