"""Compare subjects as the broker does."""

from __future__ import annotations


def pattern_covers(pattern: str, subject: str) -> bool:
    """Tell whether a pattern with ``*`` and ``>`` matches a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
