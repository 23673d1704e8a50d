"""Which names a certificate covers (RFC 6125, RFC 9525).

Only DNS names of the SAN extension count, and a wildcard stands for one whole label.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from shared.contracts.findings import Finding
from shared.contracts.names import covered
from shared.domain_names import normalise
from shared.errors import Refused

__all__ = ["MAX_NAME_LENGTH", "covered", "find_lost_names", "is_domain_name", "normalise_domains"]

MAX_NAME_LENGTH = 253  # a longer text is no DNS name and covers nothing


def find_lost_names(live: Iterable[str], sans: Container[str]) -> list[str]:
    """Return the names of the live certificate that ``sans`` do not cover, in order (rule D12)."""
    return [name for name in live if not covered(sans, name)]


def normalise_domains(domains: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """Return the domains in lower-case A-labels, each once, and the refusals of the other texts.

    A refusal names its text in ``domain``, cut to the length of a name (rule A3).
    """
    names: dict[str, None] = {}
    refusals: list[Finding] = []
    for text in domains:
        try:
            names[normalise(text)] = None
        except Refused as refused:
            # No message can carry a lone surrogate.
            shown = text[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode()
            for found in refused.findings:
                refusals.append(found.model_copy(update={"domain": shown}))
    return list(names), refusals


def is_domain_name(name: str) -> bool:
    """Check whether ``name`` is a domain in the form in which domains are stored."""
    try:
        return normalise(name) == name
    except Refused:
        return False
