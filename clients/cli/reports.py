"""What finance takes away: usage, charges and statements, as a table or as a file in any of the
forms of clients/export. Long ones stream: a page is asked for when the one before is written."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from zoneinfo import ZoneInfo

import typer

from clients.cli.command import Link
from clients.cli.files import parse_time
from clients.cli.output import Out
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
from shared.contracts.ledger import Kind, LedgerRow, QueryLedger, ShowStatement, Statement
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import UsageRow
from shared.errors import SettingsError, Unreachable
from shared.money import negated

RowT = TypeVar("RowT")
TABLE_ROWS: Final = 5000
"""A table has to know all its rows to be drawn."""
_UTC: Final = ZoneInfo("UTC")
_COSTS: Final[list[Kind]] = ["charge", "correction", "plan", "unused"]


class Form(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class By(StrEnum):
    ACCOUNT = "account"
    DOMAIN = "domain"
    NODE = "node"


class Length(StrEnum):
    FIVE_MINUTES = "5m"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class StatementBy(StrEnum):
    DAY = "day"
    HOUR = "hour"


FromOption = Annotated[
    str | None, typer.Option("--from", help="Start, inclusive: RFC 3339, or a date in the zone.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", help="End, exclusive; default: the end of this hour.")
]
ZoneOption = Annotated[
    str, typer.Option("--zone", envvar="EDGETLS_ZONE", help="Time zone of days, months and bills.")
]
FormatOption = Annotated[Form, typer.Option("--format", help="Output format.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
]
FocusOption = Annotated[
    bool, typer.Option("--focus", help="Rows of FOCUS 1.2 (with csv, json or parquet).")
]
AllOption = Annotated[
    bool, typer.Option("--all-accounts", help="Every account, not only --account.")
]
ProviderOption = Annotated[str, typer.Option(help="Who sells and invoices, in FOCUS rows.")]
ProgressOption = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="Show progress on stderr; default: on a terminal."
    ),
]


async def usage(
    link: Link,
    start: FromOption = None,
    end: ToOption = None,
    by: Annotated[By, typer.Option(help="What each row is about.")] = By.DOMAIN,
    granularity: Annotated[Length, typer.Option(help="The period of each row.")] = Length.HOUR,
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    node: Annotated[str | None, typer.Option(help="Only this node.")] = None,
    unattributed: Annotated[
        bool, typer.Option("--unattributed", help="Usage that no account owns (yet).")
    ] = False,
    every_account: AllOption = False,
    zone: ZoneOption = "UTC",
    form: FormatOption = Form.TABLE,
    output: OutputOption = None,
    progress: ProgressOption = None,
) -> None:
    """HTTPS and HTTP requests and bytes; only HTTPS requests are charged. Default: the last 24
    hours."""
    place = _zone(zone)
    since, until = period(start, end, timedelta(hours=24), place)
    question = QueryUsage(
        start=since,
        end=until,
        granularity=granularity.value,
        by=by.value,
        zone=zone,
        unattributed=unattributed,
        account=None if every_account or unattributed else link.account,
        domain=domain,
        node=node,
    )
    requests = 0

    def counted(row: UsageRow) -> datetime:
        nonlocal requests
        requests += row.https_requests
        return row.start

    async with link.platform() as platform:
        rows = show_progress(
            _noted(platform.usage_rows(question), counted),
            lambda r: r.start,
            (since, until),
            progress,
        )
        await _give(
            link, form, output, usage_sheet(by.value), rows, place, "no usage in this period"
        )
    if requests and _chosen(link, form, output) is Form.TABLE:
        link.out.line(f"{requests} HTTPS requests")


async def charges(
    link: Link,
    start: FromOption = None,
    end: ToOption = None,
    every_account: AllOption = False,
    credit_rows: Annotated[
        bool, typer.Option("--credits", help="Include credits: the whole ledger.")
    ] = False,
    focus: FocusOption = False,
    provider: ProviderOption = "edgetls",
    zone: ZoneOption = "UTC",
    form: FormatOption = Form.TABLE,
    output: OutputOption = None,
    progress: ProgressOption = None,
) -> None:
    """What was charged: hours, corrections, plans; one row a line of the ledger. Default: the last
    31 days.

    A row belongs to the period of its hour of usage; what came after its month was settled, to that
    of its booking."""
    place = _zone(zone)
    since, until = period(start, end, timedelta(days=31), place)
    question = QueryLedger(
        account=None if every_account else link.account,
        start=since,
        end=until,
        zone=zone,
        kinds=[] if credit_rows else _COSTS,
    )
    async with link.platform() as platform:
        sheet = await _focus(platform, place, provider) if focus else charges_sheet()
        rows = show_progress(
            platform.ledger_rows(question), lambda row: row.booked_at, (since, until), progress
        )
        await _give(
            link,
            Form.CSV if focus and form is Form.TABLE else form,
            output,
            sheet,
            rows,
            place,
            "no charges in this period",
        )


async def statement(
    link: Link,
    month: Annotated[
        str | None, typer.Argument(help="Like 2026-05; default: the running month of the zone.")
    ] = None,
    by: Annotated[
        StatementBy, typer.Option(help="Period that charges are summed over.")
    ] = StatementBy.DAY,
    focus: FocusOption = False,
    provider: ProviderOption = "edgetls",
    zone: ZoneOption = "UTC",
    form: FormatOption = Form.TABLE,
    output: OutputOption = None,
) -> None:
    """A month of the account: opening balance, credits, plans, charges, corrections, closing
    balance."""
    place = _zone(zone)
    question = ShowStatement(
        account=link.account, month=month or f"{datetime.now(place):%Y-%m}", zone=zone, by=by.value
    )
    async with link.platform() as platform:
        found = await platform.statement(question)
        if focus:
            lines = platform.ledger_rows(
                QueryLedger(account=link.account, start=found.start, end=found.end, zone=zone)
            )
            sheet = await _focus(platform, place, provider)
            await _give(
                link, Form.CSV if form is Form.TABLE else form, output, sheet, lines, place, ""
            )
            return
    chosen = _chosen(link, form, output)
    if chosen is Form.JSON:
        _write_json(link, output, found)
    elif chosen is Form.TABLE:
        _show(link, found, place)
    else:
        _write_statement(chosen, output, found, place)
        if output is not None:
            link.out.data({"file": str(output), "rows": len(found.lines) + 2})


def _write_json(link: Link, output: Path | None, found: Statement) -> None:
    """The whole of it as one object."""
    if output is None:
        Out(as_json=True).data(found)
        return
    try:
        output.write_text(found.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {os.strerror(error.errno or 0)}") from None
    link.out.data({"file": str(output), "rows": len(found.lines)})


def _write_statement(form: Form, output: Path | None, found: Statement, zone: ZoneInfo) -> None:
    """With the balances as first and last row: the rows between them add up to their difference."""
    sheet = statement_sheet()

    def balance(kind: str, at: datetime, amount: Decimal) -> list[Value]:
        known: dict[str, Value] = {"start": at, "end": at, "kind": kind, "amount": amount}
        return [known.get(column.name) for column in sheet.columns]

    with open_writer(form.value, output, sheet, zone) as writer:
        writer.write(balance("opening", found.start, found.totals.opening))
        for line in found.lines:
            writer.write(sheet.values(line))
        writer.write(balance("closing", found.end, found.totals.closing))


def _show(link: Link, found: Statement, zone: ZoneInfo) -> None:
    totals, money = found.totals, found.currency
    link.out.line(
        f"{found.account}, {found.month} ({found.zone}), "
        f"{'final' if found.final else 'not final yet'}"
    )
    link.out.table(
        ("from", "kind", "of", "requests", "price per 10,000", "exact", money),
        [
            (
                f"{line.start.astimezone(zone):%Y-%m-%d %H:%M}",
                line.kind,
                line.reference
                or line.plan
                or (time_text(line.hour, zone) if line.hour else line.price_id),
                line.requests,
                None if line.price is None else f"{line.price:f}",
                f"{line.amount:f}",
                f"{line.rounded:.2f}",
            )
            for line in found.lines
        ],
        empty="nothing was booked in this month",
    )
    link.out.table(
        ("", money),
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


async def _give(
    link: Link,
    form: Form,
    output: Path | None,
    sheet: ExportSheet[RowT],
    rows: AsyncIterator[RowT],
    zone: ZoneInfo,
    empty: str,
) -> None:
    chosen = _chosen(link, form, output)
    if chosen is Form.TABLE:
        await _table(link, sheet, rows, zone, empty)
        return
    count = 0
    with open_writer(chosen.value, output, sheet, zone) as writer:
        async for row in rows:
            writer.write(sheet.values(row))
            count += 1
    if output is not None:
        link.out.data({"file": str(output), "rows": count})
        link.out.line(f"{count} rows in {output}")


async def _table(
    link: Link, sheet: ExportSheet[RowT], rows: AsyncIterator[RowT], zone: ZoneInfo, empty: str
) -> None:
    cells: list[list[str]] = []
    more = 0
    async for row in rows:
        if len(cells) < TABLE_ROWS:
            cells.append([as_text(value, zone) for value in sheet.values(row)])
        else:
            more += 1
    used = [
        i
        for i, column in enumerate(sheet.columns)
        if column.name in _ALWAYS or any(row[i] for row in cells)
    ]
    names = [sheet.columns[i].name.replace("_", " ") for i in used]
    link.out.table(names, [[row[i] for i in used] for row in cells], empty=empty)
    if more:
        link.out.line(f"and {more} more rows: export them with --format csv")


_ALWAYS: Final = ("account", "kind", "amount")


async def _focus(platform: Platform, zone: ZoneInfo, provider: str) -> ExportSheet[LedgerRow]:
    """Without the price book the list price of a line is its own price, and that is said."""
    try:
        prices = ListPrices((await platform.price_book()).book)
    except Unreachable:
        sys.stderr.write(
            "edgetls: the price book is out of reach: list prices are the prices that were "
            "charged\n"
        )
        prices = ListPrices(None)
    return FocusExport(zone, prices, provider).build_sheet()


async def _noted(rows: AsyncIterator[RowT], note: Callable[[RowT], Any]) -> AsyncIterator[RowT]:
    async for row in rows:
        note(row)
        yield row


def _chosen(link: Link, form: Form, output: Path | None) -> Form:
    """``--json`` is the form json on standard output; a file is never a table."""
    if form is Form.TABLE and (link.out.as_json or output is not None):
        return Form.CSV if output is not None else Form.JSON
    return form


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise SettingsError(
            f"there is no time zone {name!r}: write it like Asia/Shanghai or UTC"
        ) from None


def period(
    start: str | None, end: str | None, default: timedelta, zone: ZoneInfo = _UTC
) -> tuple[datetime, datetime]:
    """Whole hours: the default ends with the running one."""
    until = (
        parse_time(end, zone)
        if end
        else (datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
    )
    return (parse_time(start, zone) if start else until - default), until
