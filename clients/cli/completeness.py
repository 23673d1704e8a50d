"""The commands that prove completeness: ``edgetls usage gaps`` and ``edgetls audit`` (rule E9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from clients.cli.command import Context, command
from clients.cli.files import parse_time
from clients.cli.output import format_second
from shared import catalogue
from shared.contracts.audit import AuditReport, Gap, QueryAudit, QueryGaps
from shared.contracts.findings import Code, finding
from shared.errors import Refused, SettingsError
from shared.messaging import rpc

FromOption = Annotated[
    str | None, typer.Option("--from", help="Start, inclusive: RFC 3339, or a date in UTC.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="End, exclusive.")]
_DAY: Final = timedelta(days=1)
_AUDIT_SECONDS: Final = 600
"""A day of a busy platform takes minutes to recompute, so a question waits longer than others."""


async def list_gaps(
    context: Context,
    start: FromOption = None,
    end: ToOption = None,
    node: Annotated[str | None, typer.Option(help="Only this node.")] = None,
) -> None:
    """List the byte ranges of the nodes' logs that were not received, by node, log and range.
    Default: of all time.

    The exit code is 0 with gaps, too: with --json, an empty list means that there are none."""
    gaps: list[Gap] = []
    quarantined = 0
    question = QueryGaps(
        node=node,
        start=parse_time(start) if start else None,
        end=parse_time(end) if end else None,
    )
    async with context.connection("finance") as connection:
        async for page in connection.ask_pages(catalogue.RPC_USAGE_GAPS, question):
            gaps += page.gaps
            quarantined = page.parked_events
    context.output.show_list(
        gaps,
        {
            "node": lambda gap: gap.node,
            "log": lambda gap: gap.log,
            "from byte": lambda gap: gap.start,
            "to byte": lambda gap: gap.end,
            "bytes": lambda gap: gap.end - gap.start,
            "kind": lambda gap: gap.kind,
            "since": lambda gap: format_second(gap.since),
            "last seen": lambda gap: format_second(gap.last_seen),
        },
        empty="no gaps: every byte that was read was received",
    )
    if quarantined:
        context.output.line(
            f"{quarantined} single events or changes of owners wait in quarantine until a "
            "fault of the platform is mended"
        )


async def audit_usage(context: Context, start: FromOption = None, end: ToOption = None) -> None:
    """Recompute usage and charges from the archive and compare, to the last request and the last
    decimal.

    Day by day; exit code 1 when anything differs. Default: the last 24 full hours. An audit ends
    with the current hour at the latest."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    day_start, until = audit_period(start, end, hour)
    if end and until < parse_time(end):
        context.output.line(f"until {until:%Y-%m-%d %H:%M} UTC: later hours cannot be compared yet")
    # Day by day: each answer shows that the audit goes on, and billing's work for one is bounded.
    # rpc.ask and not connection.ask, which tries again after a few seconds without an answer.
    reports: list[AuditReport] = []
    async with context.connection("finance") as connection:
        while day_start < until:
            day_end = min(day_start + _DAY, until)
            report = await rpc.ask(
                connection.client,
                catalogue.RPC_USAGE_AUDIT,
                QueryAudit(start=day_start, end=day_end),
                timeout=_AUDIT_SECONDS,
            )
            context.output.line(_describe_report(report))
            reports.append(report)
            day_start = day_end
    context.output.data(reports)
    differences = [one for report in reports for one in report.differences]
    if differences:
        context.output.show_table(
            differences,
            {
                "what": lambda difference: difference.what,
                "where": lambda difference: difference.place,
                "recomputed": lambda difference: difference.recomputed,
                "recorded": lambda difference: difference.recorded,
            },
        )
        raise Refused([finding(Code.AUDIT_DIFFERS)])
    complete = all(report.complete for report in reports)
    requests = sum(report.requests for report in reports)
    what = "everything" if complete else "what was compared"
    context.output.line(f"{requests} requests: {what} agrees")


def audit_period(start: str | None, end: str | None, hour: datetime) -> tuple[datetime, datetime]:
    """Return the start and end of an audit; ``hour``: the start of the current hour.

    SettingsError when they hold nothing to audit."""
    # Up to the end of the current hour can be named: what has arrived of it is compared, too.
    until = hour
    if end:
        until = min(parse_time(end), hour + timedelta(hours=1))
    at = until - _DAY
    if start:
        at = parse_time(start)
    if at >= until:
        raise SettingsError(
            "there is nothing to audit: --from must lie before --to, and before now"
        )
    return at, until


def _describe_report(report: AuditReport) -> str:
    amounts = []
    for currency, amount in sorted(report.amounts.items()):
        amounts.append(f"{amount:f} {currency}")
    money = ", ".join(amounts) or "nothing"
    unread = ""
    if report.bad_lines:
        unread = f", {report.bad_lines} lines could not be read"
    verdict = "agrees" if report.agrees else f"{report.differing} DIFFER"
    limits = ""
    if not report.complete:
        limits = " as far as it was compared: part of it is older than what is kept"
    return (
        f"{report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M}: {report.requests} "
        f"requests from {report.batches} batches and {report.single_events} events, "
        f"{report.charged} charged ({money}), {report.uncharged} not yet{unread}: "
        f"{verdict}{limits}"
    )


def add_to(app: typer.Typer, usage_group: typer.Typer) -> None:
    """Register the commands."""
    command(
        usage_group,
        "gaps",
        examples=["edgetls usage gaps", "edgetls usage gaps --node node-1 --json"],
    )(list_gaps)
    command(app, "audit", examples=["edgetls audit --from 2026-05-01 --to 2026-06-01"])(audit_usage)
