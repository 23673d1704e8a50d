"""Printing how a command ended, and waiting until the nodes serve it."""

from __future__ import annotations

from typing import Any

from clients.cli.command import Context
from clients.cli.output import ExitCode, format_milliseconds
from clients.cli.preview import show_preview
from clients.platform import (
    ConvergedRevision,
    ConvergenceProgress,
    Platform,
    StoredCommand,
    findings_of,
)
from clients.platform.config_commands import CommandBody
from shared.contracts.domains import CommandSettled, Outcome
from shared.contracts.findings import Code, Finding, Severity, finding
from shared.errors import Refused, Unreachable


async def send_or_preview(
    context: Context, body: CommandBody, done: str, *, dry_run: bool, wait: bool = False
) -> None:
    """Send a command and print its outcome; with ``dry_run`` print what it would change.

    ``done``: printed when the command was carried out. ``wait``: until every node serves the
    revision, too. Refused when it was not, or would not be, carried out."""
    async with context.platform() as platform:
        if dry_run:
            await show_preview(context, platform, body)
        else:
            stored = await platform.send_command(body)
            await _report_outcome(context, platform, stored, done, wait)


async def _report_outcome(
    context: Context, platform: Platform, stored: StoredCommand, done: str, wait: bool
) -> None:
    # A result is printed once, at the end: with --json stdout holds one value. People see the
    # outcome at once, before the wait for the nodes.
    output = context.output
    settled = await platform.settled(stored.command_id)
    findings = await full_findings(platform, settled)
    raise_refusal(settled, findings)
    target = settled.domain or settled.certificate or settled.account
    what = done if settled.outcome is Outcome.APPLIED else settled.outcome.value
    revision = f", revision {settled.revision}" if settled.revision else ""
    output.line(f"{target}: {what}{revision}")
    output.show_findings(findings)
    result = result_of(settled, findings)
    if wait and settled.domain is not None and settled.revision is not None:
        live = await wait_until_live(context, platform, settled.domain, settled.revision, result)
        output.line(describe_live(live, live.slowest_ms))
        result["nodes"] = live.nodes
    output.data(result)


async def full_findings(platform: Platform, settled: CommandSettled) -> list[Finding]:
    """Return the findings of an outcome in full; by their codes alone when a later disable removed
    the detail, or config is away."""
    if not settled.codes:
        return []
    try:
        view = await platform.command(settled.command_id, settled.account)
    except Unreachable:
        return findings_of(settled)
    for result in view.results:
        if (result.domain, result.certificate) == (settled.domain, settled.certificate):
            return findings_of(result)
    return findings_of(settled)


def raise_refusal(settled: CommandSettled, findings: list[Finding]) -> None:
    """Raise Refused unless the command was carried out."""
    if settled.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
        return
    # A superseded or undecided submission may have findings that alone would not explain why it
    # was not carried out.
    refusals = {one.code for one in findings if one.severity is Severity.REFUSAL}
    if settled.outcome is Outcome.SUPERSEDED and Code.SUBMISSION_SUPERSEDED not in refusals:
        findings = [*findings, finding(Code.SUBMISSION_SUPERSEDED)]
    if settled.outcome is Outcome.UNDECIDED and Code.SUBMISSION_UNDECIDED not in refusals:
        findings = [*findings, finding(Code.SUBMISSION_UNDECIDED)]
    raise Refused(findings)


def result_of(settled: CommandSettled, findings: list[Finding]) -> dict[str, Any]:
    """Return an outcome as JSON for programs."""
    return {
        "command_id": settled.command_id,
        "domain": settled.domain,
        "outcome": settled.outcome.value,
        "revision": settled.revision,
        "findings": findings,
    }


async def wait_until_live(
    context: Context, platform: Platform, domain: str, revision: int, result: dict[str, Any]
) -> ConvergedRevision:
    """Wait until every node serves the revision, with notes on the progress.

    The command is carried out already: if the nodes do not follow in time, ``result`` is printed
    for programs, with the error, before Unreachable is raised."""

    def note_progress(progress: ConvergenceProgress) -> None:
        context.output.note(
            f"on {progress.proven} of {progress.nodes} nodes after "
            f"{format_milliseconds(progress.elapsed_ms)}"
        )

    try:
        return await platform.converged(domain, revision, note_progress)
    except Unreachable as error:
        context.output.data({**result, "error": str(error), "exit": int(ExitCode.UNREACHABLE)})
        raise


def describe_live(live: ConvergedRevision, elapsed_ms: float | None) -> str:
    """Return the line that says on how many nodes the revision is live."""
    after = ""
    if elapsed_ms is not None:
        after = f" after {format_milliseconds(elapsed_ms)}"
    return f"live everywhere: revision {live.revision} on {live.nodes} nodes{after}"
