"""A report that any message can carry, whatever was submitted: it holds the first findings,
refusals before others. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shared.contracts.findings import Code, Finding, Severity, finding

MAX_FINDINGS = 200  # of 50 domains and two pairs each has its own
MAX_BYTES = 256 * 1024
_ORDER = (Severity.REFUSAL, Severity.WARNING, Severity.NOTICE)


def bounded(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """All of them, in their order, where they fit; else those that weigh most, and a last one that
    counts the rest."""
    if (
        len(findings) <= MAX_FINDINGS
        and sum(len(found.encode()) for found in findings) <= MAX_BYTES
    ):
        return tuple(findings)
    kept: set[int] = set()
    room = MAX_BYTES
    for index in sorted(range(len(findings)), key=lambda at: _ORDER.index(findings[at].severity)):
        room -= len(findings[index].encode())
        if room < 0 or len(kept) == MAX_FINDINGS - 1:
            break
        kept.add(index)
    left_out = len(findings) - len(kept)
    return (
        *(found for index, found in enumerate(findings) if index in kept),
        finding(Code.REPORT_SHORTENED, f"{left_out} more findings are not listed."),
    )
