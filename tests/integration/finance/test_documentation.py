"""The SQL of docs/finance.md runs as finance and gives the figures that the page shows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from clients.platform.connection import PlatformConnection
from clients.platform.queries import PlatformQueries
from shared.contracts.ledger import Kind, QueryLedger, ShowStatement
from shared.storage.pool import Connection
from tests.integration.billing.harness import BillingHarness, billing_harness
from tests.integration.finance.made_months import PRICE, Line, book, set_clock

DOCUMENT = (Path(__file__).parents[3] / "docs" / "finance.md").read_text()
EXAMPLES = re.findall(r"```sql\n(.*?)```\n((?:\|[^\n]*\n)+)", DOCUMENT, re.DOTALL)
SHANGHAI = ZoneInfo("Asia/Shanghai")


def at(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=SHANGHAI)  # type: ignore[misc, arg-type]


def line(kind: str, hour: datetime, booked: datetime, posting: int, requests: int) -> Line:
    return Line(
        kind, -PRICE * requests / 10_000, booked, int(hour.timestamp()) // 3600, posting, requests
    )


ACME = [
    Line("credit", Decimal(50), at(2026, 4, 20, 10), reference="pay-1001"),
    line("charge", at(2026, 4, 30, 22), at(2026, 4, 30, 23, 3), 1, 400_000),
    line("charge", at(2026, 5, 1), at(2026, 5, 1, 1, 3), 1, 1_234_567),
    line("charge", at(2026, 5, 2, 9), at(2026, 5, 2, 10, 3), 1, 20_000),
    line("correction", at(2026, 5, 2, 9), at(2026, 5, 2, 11, 3), 2, 500),
    line("correction", at(2026, 4, 30, 22), at(2026, 5, 3, 12), 2, 1_000),
    line("charge", at(2026, 4, 30, 23), at(2026, 5, 3, 12, 5), 1, 2_000),
    Line("credit", Decimal(20), at(2026, 5, 15, 9), reference="pay-1002"),
    Line("plan", Decimal("-4.5"), at(2026, 5, 20, 8), reference="order-7"),
]


@pytest.fixture(scope="module")
async def example(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BillingHarness]:
    """The example of the page and nothing else."""
    async with billing_harness(tmp_path_factory.mktemp("documentation")) as harness:
        set_clock(harness)
        await harness.start()
        await book(harness, "acme", ACME)
        await harness.database.execute(
            "insert into plans (account, reference, plan, requests, start_hour, end_hour, "
            "amount, currency, bought_at)"
            " values ('acme', 'order-7', 'pack-1m', 1000000, $1, $1 + 180 * 24, 4.5, 'CNY', "
            "to_timestamp(0))",
            int(at(2026, 5, 20, 8).timestamp()) // 3600,
        )
        for one in ACME:
            if one.hour is not None:
                await harness.database.execute(
                    "insert into usage_hours values ('www.acme.example', $1, 'node-1', 'acme', "
                    "$2, 0, 0, 0)"
                    " on conflict (domain, hour, node, account) do update"
                    " set https_requests = usage_hours.https_requests + excluded.https_requests",
                    one.hour,
                    one.requests,
                )
        await harness.database.execute(
            "insert into usage_minutes values ('new.example.com', $1, 'node-1', '', 42, 0, 0, 0)",
            int(at(2026, 5, 7).timestamp()) // 60,
        )
        yield harness


@pytest.fixture
async def finance(example: BillingHarness) -> AsyncIterator[Connection]:
    dsn = (example.cluster.folder / "keys" / "finance.dsn").read_text().strip()
    connection = await asyncpg.connect(dsn, timeout=5)
    yield connection
    await connection.close()


@pytest.mark.parametrize("example_number", range(len(EXAMPLES)))
async def test_a_statement_of_the_document_gives_what_stands_below_it(
    finance: Connection, example_number: int
) -> None:
    statement, table = EXAMPLES[example_number]
    names, _, *wanted = [
        [cell.strip() for cell in row.strip("|\n").split("|")] for row in table.splitlines()
    ]
    prepared = await finance.prepare(statement)
    assert [attribute.name for attribute in prepared.get_attributes()] == names
    found = [[_text(value) for value in row] for row in await prepared.fetch()]
    assert found == wanted


def _text(value: object) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


async def test_every_example_of_the_document_is_run() -> None:
    assert len(EXAMPLES) == 6


async def test_the_statement_and_the_files_have_the_figures_of_the_document(
    example: BillingHarness,
) -> None:
    queries = PlatformQueries(
        PlatformConnection(example.clients["finance"], example.cluster.url, "finance", 5)
    )
    found = await queries.statement(
        ShowStatement(account="acme", month="2026-05", zone="Asia/Shanghai")
    )
    totals = found.totals
    assert (totals.opening, totals.credits, totals.closing) == (48, 20, Decimal("57.209665"))
    assert (totals.charges, totals.corrections, totals.plans) == (
        Decimal("-6.272835"),
        Decimal("-0.0175"),
        Decimal("-4.5"),
    )
    assert (-totals.rounded, totals.rounding) == (Decimal("10.79"), Decimal("0.000335"))
    assert [(one.kind, one.start.astimezone(SHANGHAI).day) for one in found.lines] == [
        ("charge", 1),
        ("charge", 2),
        ("correction", 2),
        ("correction", 3),
        ("correction", 3),
        ("credit", 15),
        ("plan", 20),
    ]
    question = QueryLedger(account="acme", start=found.start, end=found.end, zone="Asia/Shanghai")
    lines = [row async for row in queries.ledger_rows(question)]
    assert -sum(row.amount for row in lines if row.kind != "credit") == Decimal("10.790335")
    assert -sum(row.amount for row in lines) == Decimal("-9.209665")
    assert [row.hour for row in lines if row.late] == [at(2026, 4, 30, 22), at(2026, 4, 30, 23)]


async def test_the_views_agree_with_what_the_commands_show(
    example: BillingHarness, finance: Connection
) -> None:
    """`edgetls charges` and finance.charges: the same lines, with the same figures."""
    assert set(get_args(Kind)) - {"credit"} == {"charge", "correction", "plan", "unused"}
    queries = PlatformQueries(
        PlatformConnection(example.clients["finance"], example.cluster.url, "finance", 5)
    )
    question = QueryLedger(
        account="acme",
        start=at(2026, 1, 1),
        end=at(2027, 1, 1),
        kinds=["charge", "correction", "plan", "unused"],
    )
    shown = {
        row.id: (row.kind, row.billed_at, row.requests, row.price_id, row.plan, -row.amount)
        async for row in queries.ledger_rows(question)
    }
    rows = await finance.fetch(
        "select id, kind, billed_at, requests, price_id, plan, cost from finance.charges"
    )
    assert {row["id"]: tuple(row)[1:] for row in rows} == shown
