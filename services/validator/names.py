"""Which names a certificate covers (RFC 6125, RFC 9525): DNS SANs only, a wildcard for exactly one whole label."""

from __future__ import annotations

import re
from collections.abc import Iterable

import idna

_A_LABELS = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def covers(san: str, domain: str) -> bool:
    """Does the DNS name ``san`` cover ``domain``, both lower-case A-labels? ``*.example.com`` needs itself."""
    if san == domain:
        return True
    if not san.startswith("*.") or domain.startswith("*."):
        return False
    # As OpenSSL and browsers do, `*.com` covers nothing.
    _, _, parent = domain.partition(".")
    return san[2:] == parent and "." in parent


def covered(sans: Iterable[str], domain: str) -> bool:
    return any(covers(san, domain) for san in sans)


def lost(live: Iterable[str], sans: Iterable[str]) -> list[str]:
    """The names of the live certificate that ``sans`` do not cover (rule D12), in order."""
    known = tuple(sans)
    return [name for name in live if not covered(known, name)]


def a_label(domain: str) -> str | None:
    """``domain`` as lower-case A-labels (IDNA 2008); None when it is not a name."""
    bare = domain.strip().lower().removesuffix(".")
    if not bare or len(bare) > 253:
        return None
    try:
        if not bare.isascii():
            star = "*." if bare.startswith("*.") else ""
            bare = star + idna.encode(bare[len(star) :], uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return None
    return bare if len(bare) <= 253 and _A_LABELS.fullmatch(bare) else None
