"""Domain names (``shared.domain_names``) in the families that they form (rule A2), and names of
certificates. Pure."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from shared.contracts.findings import Code, finding
from shared.domain_names import WILDCARD, a_label, normalise
from shared.errors import Refused

__all__ = ["WILDCARD", "a_label", "certificate", "given", "normalise", "parent"]

_CERTIFICATE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def certificate(text: str) -> str:
    """A certificate's name (rule B10); Refused with ``certificate.name_invalid``."""
    if _CERTIFICATE.fullmatch(text) is None:
        raise Refused([finding(Code.CERTIFICATE_NAME_INVALID, field="request")])
    return text


def given(domain: str, submission_id: str) -> str:
    """The name of a certificate that was submitted without one: whose it is, and which."""
    whose = domain.replace(WILDCARD, "_wildcard")[:100]
    return f"{whose}-{sha256(submission_id.encode()).hexdigest()[:12]}"


def parent(name: str) -> str:
    """The name without its first label: a wildcard and the hosts that it covers have the same
    one."""
    return name.partition(".")[2]
