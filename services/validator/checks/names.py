"""Which names a certificate covers (RFC 6125, RFC 9525): DNS SANs only, a wildcard for one whole
label. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable

from shared.contracts.findings import Finding
from shared.contracts.names import covered
from shared.domain_names import normalise
from shared.errors import Refused

__all__ = ["covered", "is_domain", "lost", "normalised"]

MAX_NAME = 253  # what is longer is no DNS name and covers nothing


def lost(live: Iterable[str], sans: Container[str]) -> list[str]:
    """The names of the live certificate that ``sans`` do not cover (rule D12), in order."""
    return [name for name in live if not covered(sans, name)]


def normalised(domains: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """The domains in lower-case A-labels, each once, and a refusal of each text that is no name
    (rule A3), cut to the length of one."""
    names: dict[str, None] = {}
    refusals: list[Finding] = []
    for text in domains:
        try:
            names[normalise(text)] = None
        except Refused as refused:
            told = (
                text[:MAX_NAME].encode("utf-8", "replace").decode()
            )  # a lone surrogate is in no message
            refusals += (f.model_copy(update={"domain": told}) for f in refused.findings)
    return list(names), refusals


def is_domain(name: str) -> bool:
    """Is ``name`` a domain as it is stored?"""
    try:
        return normalise(name) == name
    except Refused:
        return False
