"""Is every byte in (``edgetls usage gaps``), and does everything add up (``edgetls audit``)? Rule
E9."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from clients.cli.command import Link, command
from clients.cli.files import parse_time
from shared import catalogue
from shared.contracts.audit import AuditReport, Gap, QueryAudit, QueryGaps
from shared.contracts.findings import Code, finding
from shared.errors import Refused, SettingsError
from shared.messaging import rpc

FromOption = Annotated[
    str | None, typer.Option("--from", help="Start, inclusive: RFC 3339, or a date in UTC.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="End, exclusive.")]
_DAY = timedelta(days=1)
_AUDIT_SECONDS = 600


async def gaps(
    link: Link,
    start: FromOption = None,
    end: ToOption = None,
    node: Annotated[str | None, typer.Option(help="Only this node.")] = None,
) -> None:
    """The byte ranges of the nodes' logs that are not in, by node, log and range. Default: of all
    time.

    Exit 0 whether there are any or not: with --json, an empty list says that there are none."""
    found: list[Gap] = []
    after: str | None = ""
    events = 0
    async with link.reach("finance") as reach:
        while after is not None:
            question = QueryGaps(
                node=node,
                start=parse_time(start) if start else None,
                end=parse_time(end) if end else None,
                after=after,
            )
            page = await reach.ask(catalogue.RPC_USAGE_GAPS, question)
            found += page.gaps
            after, events = page.next, page.parked_events
    link.out.data(found)
    link.out.table(
        ("node", "log", "from byte", "to byte", "bytes", "kind", "since", "last seen"),
        [
            (
                g.node,
                g.log,
                g.start,
                g.end,
                g.end - g.start,
                g.kind,
                f"{g.since:%Y-%m-%d %H:%M:%S}",
                f"{g.last_seen:%Y-%m-%d %H:%M:%S}",
            )
            for g in found
        ],
        empty="no gaps: every byte that was read is in",
    )
    if events:
        link.out.line(
            f"{events} single events or changes of owners wait for a fault of the platform to "
            "be mended"
        )


async def audit(link: Link, start: FromOption = None, end: ToOption = None) -> None:
    """Recomputes usage and charges from the archive and compares, to the last request and the last
    decimal.

    Day by day; exit 1 when anything differs. Default: the last 24 full hours. It ends with the hour
    that runs."""
    at, until = audited(start, end, datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    if end and until < parse_time(end):
        link.out.line(f"until {until:%Y-%m-%d %H:%M} UTC: what is to come cannot be compared")
    reports: list[AuditReport] = []
    async with link.reach("finance") as reach:
        while at < until:
            past = min(at + _DAY, until)
            report = await rpc.ask(
                reach.client,
                catalogue.RPC_USAGE_AUDIT,
                QueryAudit(start=at, end=past),
                timeout=_AUDIT_SECONDS,
            )
            link.out.line(_line(report))
            reports.append(report)
            at = past
    link.out.data(reports)
    differences = [one for report in reports for one in report.differences]
    if differences:
        link.out.table(
            ("what", "where", "recomputed", "recorded"),
            [(d.what, d.place, d.recomputed, d.recorded) for d in differences],
        )
        raise Refused([finding(Code.AUDIT_DIFFERS)])
    what = "everything" if all(r.complete for r in reports) else "what was compared"
    link.out.line(f"{sum(r.requests for r in reports)} requests: {what} agrees")


def audited(start: str | None, end: str | None, hour: datetime) -> tuple[datetime, datetime]:
    """``hour``: the one that runs."""
    until = min(parse_time(end), hour + timedelta(hours=1)) if end else hour
    at = parse_time(start) if start else until - _DAY
    if at >= until:
        raise SettingsError(
            "there is nothing to audit: --from must lie before --to, and before now"
        )
    return at, until


def _line(report: AuditReport) -> str:
    money = (
        ", ".join(f"{amount:f} {currency}" for currency, amount in sorted(report.amounts.items()))
        or "nothing"
    )
    verdict = "agrees" if report.agrees else f"{report.differing} DIFFER"
    unread = f", {report.bad_lines} lines could not be read" if report.bad_lines else ""
    kept = (
        ""
        if report.complete
        else " as far as it was compared: part of it is older than what is kept"
    )
    return (
        f"{report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M}: {report.requests} "
        "requests from "
        f"{report.batches} batches and {report.single_events} events, {report.charged} charged "
        f"({money}), "
        f"{report.uncharged} not yet{unread}: {verdict}{kept}"
    )


def add_to(app: typer.Typer, under_usage: typer.Typer) -> None:
    command(
        under_usage,
        "gaps",
        examples=["edgetls usage gaps", "edgetls usage gaps --node node-1 --json"],
    )(gaps)
    command(app, "audit", examples=["edgetls audit --from 2026-05-01 --to 2026-06-01"])(audit)
