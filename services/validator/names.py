"""Which names a certificate covers (RFC 6125, RFC 9525): DNS SANs only, a wildcard for one whole label. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

import idna

from shared.contracts.names import covered

__all__ = ["a_label", "covered", "lost"]

_A_LABELS = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")



def lost(live: Iterable[str], sans: Container[str]) -> list[str]:
    """The names of the live certificate that ``sans`` do not cover (rule D12), in order."""
    return [name for name in live if not covered(sans, name)]


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
