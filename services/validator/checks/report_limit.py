"""The size limit of a report, so that a message can carry the findings of any upload."""

from __future__ import annotations

from collections.abc import Sequence

from shared.contracts.findings import Code, Finding, Severity, finding

MAX_FINDINGS = 200  # with 50 domains and two pairs, each combination can have its own
MAX_BYTES = 256 * 1024
_WEIGHT = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.NOTICE: 2}


def limit_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings that fit a report, in their order.

    If some do not fit, refusals are kept before warnings and warnings before notices, and a last
    finding counts those left out.
    """
    is_short = len(findings) <= MAX_FINDINGS
    if is_short and sum(len(found.encode()) for found in findings) <= MAX_BYTES:
        return tuple(findings)
    by_weight = sorted(range(len(findings)), key=lambda index: _WEIGHT[findings[index].severity])
    kept: list[int] = []
    room = MAX_BYTES
    for index in by_weight:
        room -= len(findings[index].encode())
        if room < 0 or len(kept) == MAX_FINDINGS - 1:
            break
        kept.append(index)
    left_out = len(findings) - len(kept)
    return (
        *(findings[index] for index in sorted(kept)),
        finding(Code.REPORT_SHORTENED, f"{left_out} more findings are not listed."),
    )
