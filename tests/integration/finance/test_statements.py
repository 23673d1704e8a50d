"""Each ledger line is in one month; balances follow on; files add up to the last digit."""

from __future__ import annotations

import csv
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from clients.export.focus import FocusExport
from clients.export.list_prices import ListPrices
from clients.export.sheets import ExportSheet, charges_sheet
from clients.export.writers import open_writer
from clients.platform.connection import PlatformConnection
from clients.platform.queries import PlatformQueries
from services.billing.domain.calendar import month_bounds
from shared import catalogue
from shared.contracts.ledger import LedgerRow, QueryLedger, ShowStatement, Statement
from shared.contracts.prices import PriceBook
from tests.integration.billing.harness import BillingHarness
from tests.integration.finance.made_months import NOW, Line, book, lines
from tests.support.factories import unique_name
from tests.support.focus_rules import rule_violations

MONTHS = ("2025-12", "2026-01", "2026-02", "2026-03", "2026-04", "2026-05", "2026-06")
ZONES = ("UTC", "Asia/Shanghai", "America/New_York", "Asia/Kolkata")
ALL = (datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
async def made(harness: BillingHarness) -> tuple[str, list[Line]]:
    account, wanted = unique_name("acct"), lines(seed=6)
    await book(harness, account, wanted)
    return account, wanted


@pytest.fixture
async def queries(harness: BillingHarness) -> AsyncIterator[PlatformQueries]:
    """Queries as finance."""
    yield PlatformQueries(
        PlatformConnection(harness.clients["finance"], harness.cluster.url, "finance", 5)
    )


async def ledger(harness: BillingHarness, **question: Any) -> list[LedgerRow]:
    found: list[LedgerRow] = []
    after: str | None = None
    while True:
        asked = QueryLedger.model_validate({**question, "after": after})
        page = await harness.ask(catalogue.RPC_LEDGER_QUERY, asked)
        found += page.rows
        if page.next is None:
            return found
        after = page.next


async def test_every_line_comes_once_in_order_of_booking_with_pages_of_any_size(
    harness: BillingHarness, made: tuple[str, list[Line]]
) -> None:
    account, wanted = made
    for limit in (7, 500):
        found = await ledger(harness, account=account, start=ALL[0], end=ALL[1], limit=limit)
        assert [(row.booked_at, row.amount, row.reference) for row in found] == [
            (line.at, line.amount, line.reference) for line in wanted
        ]
    kinds = await ledger(harness, account=account, start=ALL[0], end=ALL[1], kinds=["credit"])
    assert [row.reference for row in kinds] == [
        line.reference for line in wanted if line.kind == "credit"
    ]
    everybody = await ledger(harness, start=ALL[0], end=ALL[1])
    assert [row for row in everybody if row.account == account] == found


async def test_a_period_has_its_lines_and_none_of_those_that_were_booked_in_it_for_another(
    harness: BillingHarness, made: tuple[str, list[Line]]
) -> None:
    account, _ = made
    everything = await ledger(harness, account=account, start=ALL[0], end=ALL[1])
    start, end = datetime(2026, 3, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, 9, tzinfo=UTC)
    wanted = [row for row in everything if start <= row.billed_at < end]
    booked = [row for row in everything if start <= row.booked_at < end]
    assert wanted and wanted != booked
    for limit in (1, 2, 500):
        assert await ledger(harness, account=account, start=start, end=end, limit=limit) == wanted


@pytest.mark.parametrize("zone", ZONES)
async def test_periods_that_follow_each_other_have_every_line_once_however_they_are_cut(
    harness: BillingHarness, made: tuple[str, list[Line]], zone: str
) -> None:
    """Day by day, and at odd moments."""
    account, _ = made
    everything = await ledger(harness, account=account, start=ALL[0], end=ALL[1], zone=zone)
    chance = random.Random(4)
    days = [ALL[0] + timedelta(days=n) for n in range((ALL[1] - ALL[0]).days + 1)]
    odd = sorted(ALL[0] + (ALL[1] - ALL[0]) * chance.random() for _ in range(40))
    for cuts in (days, [ALL[0], *odd, ALL[1]]):
        found = [
            row
            for start, end in pairwise(cuts)
            for row in await ledger(harness, account=account, start=start, end=end, zone=zone)
        ]
        assert sorted(row.id for row in found) == sorted(row.id for row in everything)
    statement = await harness.ask(
        catalogue.RPC_STATEMENT_SHOW, ShowStatement(account=account, month="2026-02")
    )
    february = [row for row in everything if statement.start <= row.billed_at < statement.end]
    assert (
        zone != "UTC"
        or sum(row.amount for row in february)
        == statement.totals.closing - statement.totals.opening
    )


@pytest.mark.parametrize("zone", ZONES)
async def test_a_line_is_dated_by_its_hour_until_the_month_of_it_is_settled(
    harness: BillingHarness, made: tuple[str, list[Line]], zone: str
) -> None:
    account, wanted = made
    found = await ledger(harness, account=account, start=ALL[0], end=ALL[1], zone=zone)
    for row, line in zip(found, wanted, strict=True):
        if line.hour is None:
            assert (row.billed_at, row.late) == (line.at, False)
            continue
        hour = datetime.fromtimestamp(line.hour * 3600, UTC)
        _, end = month_bounds(f"{hour.astimezone(ZoneInfo(zone)):%Y-%m}", ZoneInfo(zone))
        late = line.at >= end + timedelta(hours=24)
        assert (row.hour, row.billed_at, row.late) == (hour, line.at if late else hour, late)
    assert {row.late for row in found if row.hour} == {True, False}


@pytest.mark.parametrize("zone", ZONES)
async def test_balances_follow_on_from_month_to_month_and_every_line_is_in_one(
    queries: PlatformQueries, made: tuple[str, list[Line]], zone: str
) -> None:
    account, wanted = made
    statements = [
        await queries.statement(ShowStatement(account=account, month=month, zone=zone))
        for month in MONTHS
    ]
    assert statements[0].totals.opening == 0
    for before, after in pairwise(statements):
        assert (before.end, before.totals.closing) == (after.start, after.totals.opening)
    assert statements[-1].totals.closing == sum(line.amount for line in wanted)
    assert sum(line.lines for one in statements for line in one.lines) == len(wanted)
    for one in statements:
        check(one)


def check(one: Statement) -> None:
    """Check that a statement adds up, as its documentation describes."""
    totals = one.totals
    sums = totals.credits + totals.charges + totals.corrections + totals.plans
    assert totals.opening + sums == totals.closing
    assert sum((line.amount for line in one.lines), Decimal(0)) == sums
    cents = Decimal("0.01")
    for line in one.lines:
        assert line.rounded == line.amount.quantize(cents, ROUND_HALF_UP)
        assert one.start <= line.start < line.end <= one.end
    billed = [line for line in one.lines if line.kind != "credit"]
    assert totals.rounded == sum((line.rounded for line in billed), Decimal(0))
    assert totals.rounding == totals.rounded - sum((line.amount for line in billed), Decimal(0))
    starts = [line.start for line in one.lines]
    assert starts == sorted(starts)


async def test_a_statement_by_the_hour_has_a_line_an_hour_and_the_same_totals(
    queries: PlatformQueries, made: tuple[str, list[Line]]
) -> None:
    account, _ = made
    day = await queries.statement(ShowStatement(account=account, month="2026-03", by="day"))
    hour = await queries.statement(
        ShowStatement(account=account, month="2026-03", by="hour", limit=50)
    )
    check(hour)
    exact = {"opening", "credits", "charges", "corrections", "plans", "closing", "requests"}
    assert day.totals.model_dump(include=exact) == hour.totals.model_dump(include=exact)
    assert len([line for line in hour.lines if line.kind == "charge"]) == 31 * 24 // 3
    assert len([line for line in day.lines if line.kind == "charge"]) == 31
    assert all(line.hour is not None for line in day.lines if line.kind == "correction")


async def test_a_month_is_final_a_day_after_it_has_ended(
    harness: BillingHarness, queries: PlatformQueries
) -> None:
    account = unique_name("acct")
    for days, final in ((62, True), (0, False)):
        month = f"{NOW - timedelta(days=days):%Y-%m}"
        found = await queries.statement(ShowStatement(account=account, month=month))
        assert (found.final, found.lines, found.totals.closing) == (final, [], 0)


async def test_an_invalid_month_is_refused_by_the_client() -> None:
    for month in ("2026-13", "2026-5", "May"):
        with pytest.raises(ValueError, match="month"):
            ShowStatement(account="a", month=month)


@pytest.mark.parametrize("zone", ZONES)
async def test_files_add_up_to_the_ledger_exactly(
    harness: BillingHarness,
    queries: PlatformQueries,
    made: tuple[str, list[Line]],
    tmp_path: Path,
    zone: str,
) -> None:
    account, _ = made
    place = ZoneInfo(zone)
    start, end = month_bounds("2026-03", place)
    question = QueryLedger(account=account, start=start, end=end, zone=zone)
    totals = (
        await queries.statement(ShowStatement(account=account, month="2026-03", zone=zone))
    ).totals
    standard = PriceBook.model_validate(
        {"prices": [{"id": "l", "currency": "CNY", "tiers": [{"price": "0.05"}]}]}
    )
    sheets: list[tuple[ExportSheet[LedgerRow], str]] = [
        (charges_sheet(), "amount"),
        (FocusExport(place, ListPrices(standard)).build_sheet(), "BilledCost"),
    ]
    for sheet, column in sheets:
        for form in ("csv", "parquet"):
            file = tmp_path / f"{sheet.name}.{form}"
            with open_writer(form, file, sheet, place) as writer:
                async for row in queries.ledger_rows(question):
                    writer.write(sheet.values(row))
            assert -sum(amounts(file, column)) == totals.closing - totals.opening
    with (tmp_path / "focus.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rule_violations(rows)) == []
    assert {row["ChargeClass"] for row in rows} == {"", "Correction"}
    usage = sum(Decimal(row["BilledCost"]) for row in rows if row["ChargeCategory"] == "Usage")
    assert usage == -(totals.charges + totals.corrections)
    requests = sum(Decimal(row["ConsumedQuantity"]) for row in rows if row["ConsumedQuantity"])
    assert requests == totals.requests
    assert len({row["BillingPeriodStart"] for row in rows}) == 1


def amounts(file: Path, column: str) -> list[Decimal]:
    if file.suffix == ".parquet":
        return [Decimal(value) for value in pq.read_table(file)[column].to_pylist()]
    with file.open(newline="") as stream:
        return [Decimal(row[column]) for row in csv.DictReader(stream)]
