"""The reports for finance: usage, charges and statements, as a table or as a file in any format of
clients/export.

Long ones stream: a page is asked for when the one before is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from zoneinfo import ZoneInfo

import typer

from clients.cli.command import Context
from clients.cli.files import parse_time
from clients.cli.output import Output
from clients.export.focus import FocusExport
from clients.export.list_prices import ListPrices
from clients.export.progress import show_progress
from clients.export.sheets import (
    ExportSheet,
    Value,
    as_text,
    charges_sheet,
    statement_sheet,
    time_text,
    usage_sheet,
)
from clients.export.writers import open_writer
from clients.platform import Platform
from shared.contracts.ledger import (
    Kind,
    LedgerRow,
    QueryLedger,
    ShowStatement,
    Statement,
    StatementLine,
)
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import Granularity, GroupBy, UsageRow
from shared.errors import SettingsError, Unreachable
from shared.money import negated

RowT = TypeVar("RowT")
OutputFormat = Literal["table", "csv", "json", "parquet"]
TABLE_ROWS: Final = 5000
"""A table must know all of its rows to be drawn, so it has a limit."""
_UTC: Final = ZoneInfo("UTC")
_COSTS: Final[list[Kind]] = ["charge", "correction", "plan", "unused"]
_ALWAYS_SHOWN: Final = ("account", "kind", "amount")
"""Columns that a table has even if they are empty."""

FromOption = Annotated[
    str | None, typer.Option("--from", help="Start, inclusive: RFC 3339, or a date in the zone.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", help="End, exclusive; default: the end of this hour.")
]
ZoneOption = Annotated[
    str, typer.Option("--zone", envvar="EDGETLS_ZONE", help="Time zone of days, months and bills.")
]
FormatOption = Annotated[OutputFormat, typer.Option("--format", help="Output format.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
]
FocusOption = Annotated[
    bool, typer.Option("--focus", help="Rows of FOCUS 1.2 (with csv, json or parquet).")
]
AllOption = Annotated[
    bool, typer.Option("--all-accounts", help="Every account, not only --account.")
]
ProviderOption = Annotated[str, typer.Option(help="Seller and invoice issuer in FOCUS rows.")]
ProgressOption = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="Show progress on stderr; default: on a terminal."
    ),
]


async def show_usage(
    context: Context,
    start: FromOption = None,
    end: ToOption = None,
    by: Annotated[GroupBy, typer.Option(help="What each row is about.")] = "domain",
    granularity: Annotated[Granularity, typer.Option(help="The period of each row.")] = "hour",
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    node: Annotated[str | None, typer.Option(help="Only this node.")] = None,
    unattributed: Annotated[
        bool, typer.Option("--unattributed", help="Usage that no account owns (yet).")
    ] = False,
    every_account: AllOption = False,
    zone: ZoneOption = "UTC",
    output_format: FormatOption = "table",
    output_file: OutputOption = None,
    progress: ProgressOption = None,
) -> None:
    """Show HTTPS and HTTP requests and bytes; only HTTPS requests are charged. Default: the last 24
    hours."""
    zone_info = _find_zone(zone)
    since, until = report_period(start, end, timedelta(hours=24), zone_info)
    account = None if every_account or unattributed else context.account
    question = QueryUsage(
        start=since,
        end=until,
        granularity=granularity,
        by=by,
        zone=zone,
        unattributed=unattributed,
        account=account,
        domain=domain,
        node=node,
    )
    report = ReportWriter(context, output_format, output_file, zone_info)
    requests = 0

    def count_requests(row: UsageRow) -> None:
        nonlocal requests
        requests += row.https_requests

    # The rows stream through: pages from billing, the counter, the progress bar, the writer. None
    # of them keeps more than a page, so that a year of a large platform fits into memory.
    async with context.platform() as platform:
        rows = show_progress(
            _call_for_each(platform.usage_rows(question), count_requests),
            lambda row: row.start,
            (since, until),
            progress,
        )
        await report.write(usage_sheet(by), rows, empty="no usage in this period")
    if requests and report.format == "table":
        context.output.line(f"{requests} HTTPS requests")


async def show_charges(
    context: Context,
    start: FromOption = None,
    end: ToOption = None,
    every_account: AllOption = False,
    credit_rows: Annotated[
        bool, typer.Option("--credits", help="Include credits: the whole ledger.")
    ] = False,
    focus: FocusOption = False,
    provider: ProviderOption = "edgetls",
    zone: ZoneOption = "UTC",
    output_format: FormatOption = "table",
    output_file: OutputOption = None,
    progress: ProgressOption = None,
) -> None:
    """Show what was charged: hours, corrections, plans; one row a line of the ledger. Default: the
    last 31 days.

    A row belongs to the period of its hour of usage. If it was booked after its month was settled,
    it belongs to the period in which it was booked."""
    zone_info = _find_zone(zone)
    since, until = report_period(start, end, timedelta(days=31), zone_info)
    question = QueryLedger(
        account=None if every_account else context.account,
        start=since,
        end=until,
        zone=zone,
        kinds=[] if credit_rows else _COSTS,
    )
    if focus and output_format == "table":
        # FOCUS has more columns than a terminal.
        output_format = "csv"
    report = ReportWriter(context, output_format, output_file, zone_info)
    async with context.platform() as platform:
        sheet = charges_sheet()
        if focus:
            sheet = await _focus_sheet(platform, zone_info, provider)
        rows = show_progress(
            platform.ledger_rows(question), lambda row: row.booked_at, (since, until), progress
        )
        await report.write(sheet, rows, empty="no charges in this period")


async def show_statement(
    context: Context,
    month: Annotated[
        str | None, typer.Argument(help="Like 2026-05; default: the current month of the zone.")
    ] = None,
    by: Annotated[
        Literal["day", "hour"], typer.Option(help="Period that charges are summed over.")
    ] = "day",
    focus: FocusOption = False,
    provider: ProviderOption = "edgetls",
    zone: ZoneOption = "UTC",
    output_format: FormatOption = "table",
    output_file: OutputOption = None,
) -> None:
    """Show a month of the account: opening balance, credits, plans, charges, corrections, closing
    balance."""
    zone_info = _find_zone(zone)
    question = ShowStatement(
        account=context.account,
        month=month or f"{datetime.now(zone_info):%Y-%m}",
        zone=zone,
        by=by,
    )
    if focus and output_format == "table":
        output_format = "csv"
    report = ReportWriter(context, output_format, output_file, zone_info)
    async with context.platform() as platform:
        statement = await platform.statement(question)
        if focus:
            # FOCUS has a row for each line of the ledger, where a statement sums them up.
            lines = platform.ledger_rows(
                QueryLedger(
                    account=context.account, start=statement.start, end=statement.end, zone=zone
                )
            )
            sheet = await _focus_sheet(platform, zone_info, provider)
            await report.write(sheet, lines)
            return
    if report.format == "json":
        _write_json(context, output_file, statement)
    elif report.format == "table":
        _show_statement(context, statement, zone_info)
    else:
        _write_statement(report.format, output_file, statement, zone_info)
        if output_file is not None:
            # The balances are two rows more.
            result = {"file": str(output_file), "rows": len(statement.lines) + 2}
            context.output.data(result)


class ReportWriter:
    """Writes rows in the chosen format: to stdout, or to a file."""

    def __init__(
        self, context: Context, output_format: OutputFormat, file: Path | None, zone: ZoneInfo
    ) -> None:
        """``--json`` is the format json on stdout; a file is never a table."""
        self._output = context.output
        self._file = file
        self._zone = zone
        self.format = output_format
        if output_format == "table" and file is not None:
            self.format = "csv"
        elif output_format == "table" and context.output.as_json:
            self.format = "json"

    async def write(
        self, sheet: ExportSheet[RowT], rows: AsyncIterator[RowT], *, empty: str = ""
    ) -> None:
        """Write all rows as they come; ``empty``: the line of a table without rows."""
        if self.format == "table":
            await self._write_table(sheet, rows, empty)
            return
        count = 0
        with open_writer(self.format, self._file, sheet, self._zone) as writer:
            async for row in rows:
                writer.write(sheet.values(row))
                count += 1
        if self._file is not None:
            self._output.data({"file": str(self._file), "rows": count})
            self._output.line(f"{count} rows in {self._file}")

    async def _write_table(
        self, sheet: ExportSheet[RowT], rows: AsyncIterator[RowT], empty: str
    ) -> None:
        cells: list[list[str]] = []
        more = 0
        async for row in rows:
            if len(cells) < TABLE_ROWS:
                cells.append([as_text(value, self._zone) for value in sheet.values(row)])
            else:
                more += 1
        # Columns without a value are left out: a terminal is narrow.
        shown = []
        for i, column in enumerate(sheet.columns):
            if column.name in _ALWAYS_SHOWN or any(row[i] for row in cells):
                shown.append(i)
        titles = [sheet.columns[i].name.replace("_", " ") for i in shown]
        shown_cells = [[row[i] for i in shown] for row in cells]
        self._output.show_rows(titles, shown_cells, empty=empty)
        if more:
            self._output.line(f"and {more} more rows: export them with --format csv")


def _write_json(context: Context, file: Path | None, statement: Statement) -> None:
    """Write a statement as one object."""
    if file is None:
        Output(as_json=True).data(statement)
        return
    try:
        file.write_text(statement.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {os.strerror(error.errno or 0)}") from None
    context.output.data({"file": str(file), "rows": len(statement.lines)})


def _write_statement(
    output_format: OutputFormat, file: Path | None, statement: Statement, zone: ZoneInfo
) -> None:
    """Write the lines of a statement between its balances, the first and the last row: the lines
    add up to the difference."""
    sheet = statement_sheet()

    def balance_row(kind: str, at: datetime, amount: Decimal) -> list[Value]:
        known: dict[str, Value] = {"start": at, "end": at, "kind": kind, "amount": amount}
        return [known.get(column.name) for column in sheet.columns]

    with open_writer(output_format, file, sheet, zone) as writer:
        writer.write(balance_row("opening", statement.start, statement.totals.opening))
        for line in statement.lines:
            writer.write(sheet.values(line))
        writer.write(balance_row("closing", statement.end, statement.totals.closing))


def _show_statement(context: Context, statement: Statement, zone: ZoneInfo) -> None:
    output = context.output
    totals = statement.totals
    state = "final" if statement.final else "not final yet"
    output.line(f"{statement.account}, {statement.month} ({statement.zone}), {state}")

    def describe_cause(line: StatementLine) -> object:
        """What the line is of: a payment, a plan, an hour, or a price."""
        if line.reference or line.plan:
            return line.reference or line.plan
        return time_text(line.hour, zone) if line.hour else line.price_id

    output.show_table(
        statement.lines,
        {
            "from": lambda line: f"{line.start.astimezone(zone):%Y-%m-%d %H:%M}",
            "kind": lambda line: line.kind,
            "of": describe_cause,
            "requests": lambda line: line.requests,
            "price per 10,000": lambda line: None if line.price is None else f"{line.price:f}",
            "exact": lambda line: f"{line.amount:f}",
            statement.currency: lambda line: f"{line.rounded:.2f}",
        },
        empty="nothing was booked in this month",
    )
    output.show_rows(
        ("", statement.currency),
        [
            ("opening balance", f"{totals.opening:f}"),
            ("credits", f"{totals.credits:f}"),
            ("plans", f"{totals.plans:f}"),
            ("charges", f"{totals.charges:f}"),
            ("corrections", f"{totals.corrections:f}"),
            ("closing balance", f"{totals.closing:f}"),
            ("requests, corrections included", totals.requests),
            ("amount due (sum of rounded lines)", f"{negated(totals.rounded):.2f}"),
            ("rounding difference", f"{negated(totals.rounding):f}"),
        ],
    )


async def _focus_sheet(platform: Platform, zone: ZoneInfo, provider: str) -> ExportSheet[LedgerRow]:
    """Return the FOCUS sheet. Without the price book a line's list price is its own price, and a
    warning says so."""
    prices = ListPrices(None)
    try:
        prices = ListPrices((await platform.price_book()).book)
    except Unreachable:
        sys.stderr.write(
            "edgetls: the price book is out of reach: list prices are the prices that were "
            "charged\n"
        )
    return FocusExport(zone, prices, provider).build_sheet()


async def _call_for_each(
    rows: AsyncIterator[RowT], call: Callable[[RowT], None]
) -> AsyncIterator[RowT]:
    async for row in rows:
        call(row)
        yield row


def _find_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise SettingsError(
            f"there is no time zone {name!r}: write it like Asia/Shanghai or UTC"
        ) from None


def report_period(
    start: str | None, end: str | None, default: timedelta, zone: ZoneInfo = _UTC
) -> tuple[datetime, datetime]:
    """Return the start and end of a report. Without ``end`` it ends with the current hour; without
    ``start`` it is ``default`` long."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    until = hour + timedelta(hours=1)
    if end:
        until = parse_time(end, zone)
    since = until - default
    if start:
        since = parse_time(start, zone)
    return since, until
