"""A plan in statements and FOCUS rows: billed at the purchase, effective where it is used."""

from __future__ import annotations

import csv
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from clients.export.focus import FocusExport
from clients.export.list_prices import ListPrices
from clients.export.writers import open_writer
from clients.platform.connection import PlatformConnection
from clients.platform.queries import PlatformQueries
from shared import catalogue
from shared.contracts.commands import ApplyPriceBook, PurchasePlan
from shared.contracts.ledger import QueryLedger, ShowStatement
from shared.contracts.prices import PriceBook
from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness
from tests.integration.finance.made_months import NOW, owner
from tests.support.factories import make_cell, split_into_batches
from tests.support.focus_rules import rule_violations
from tests.support.waiting import until

BOOK = PriceBook.model_validate(
    {
        "prices": [
            {"id": "list-cny", "currency": "CNY", "tiers": [{"price": "0.05"}]},
            {"id": "list-usd", "currency": "USD", "tiers": [{"price": "0.008"}]},
        ],
        "plans": [{"id": "pack-1k", "requests": 1000, "days": 30, "prices": {"CNY": "4"}}],
    }
)
MINUTE = int(NOW.timestamp()) // 60
HOUR = datetime.fromtimestamp(MINUTE // 60 * 3600, UTC)


async def test_a_plan_is_billed_when_bought_and_effective_when_used(
    harness: BillingHarness, tmp_path: Path
) -> None:
    queries = PlatformQueries(
        PlatformConnection(harness.clients["finance"], harness.cluster.url, "finance", 5)
    )
    domain, account = await owner(harness)
    await harness.publish(
        "operator", catalogue.CMD_PRICE_BOOK_APPLY, ApplyPriceBook(base=0, book=BOOK)
    )
    await harness.credit(account, "10", "pay-1")
    await harness.until_balance_event(account, "credited")
    wanted = PurchasePlan(account=account, plan="pack-1k", reference="plan-1", currency="CNY")
    await harness.publish("platform", catalogue.CMD_PLAN_PURCHASE, wanted)
    question = QueryLedger(
        account=account, start=NOW - timedelta(days=1), end=NOW + timedelta(days=1)
    )

    async def kinds() -> list[str]:
        return [row.kind async for row in queries.ledger_rows(question)]

    await until(lambda: _has(kinds, ["credit", "plan"]), "the plan is bought")
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 1500, MINUTE - 1)]])
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    await harness.close_hour(HOUR + timedelta(hours=1))
    await until(lambda: _has(kinds, ["credit", "plan", "charge", "charge"]), "the hour is charged")

    statement = await queries.statement(ShowStatement(account=account, month=f"{NOW:%Y-%m}"))
    assert [
        (one.kind, one.requests, one.plan, one.price_id, one.amount) for one in statement.lines
    ] == [
        ("credit", None, None, None, 10),
        ("plan", 1000, "plan-1", "pack-1k", -4),
        ("charge", 500, None, "list-cny", Decimal("-0.0025")),
        ("charge", 1000, "plan-1", None, 0),
    ]
    assert (statement.totals.plans, statement.totals.requests) == (-4, 1500)
    assert statement.totals.closing == Decimal("5.9975")

    file, zone = tmp_path / "focus.csv", ZoneInfo("UTC")
    sheet = FocusExport(zone, ListPrices((await queries.price_book()).book)).build_sheet()
    with open_writer("csv", file, sheet, zone) as writer:
        async for row in queries.ledger_rows(question):
            writer.write(sheet.values(row))
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rule_violations(rows)) == []
    cost = {(row["ChargeCategory"], row["CommitmentDiscountStatus"]): row for row in rows}
    assert set(cost) == {("Credit", ""), ("Purchase", ""), ("Usage", "Used"), ("Usage", "")}
    bought, used = cost["Purchase", ""], cost["Usage", "Used"]
    assert (bought["BilledCost"], bought["EffectiveCost"]) == ("4", "0")
    assert (used["BilledCost"], used["EffectiveCost"], used["ListCost"]) == ("0", "4", "0.005")
    assert bought["CommitmentDiscountId"] == used["CommitmentDiscountId"] == f"{account}/plan-1"
    assert bought["CommitmentDiscountQuantity"] == used["CommitmentDiscountQuantity"] == "1000"
    assert sum(Decimal(row["BilledCost"]) for row in rows) == -statement.totals.closing
    spent = [row for row in rows if row["ChargeCategory"] != "Credit"]
    assert sum(Decimal(row["EffectiveCost"]) for row in spent) == sum(
        Decimal(row["BilledCost"]) for row in spent
    )


async def _has(kinds: Callable[[], Awaitable[list[str]]], wanted: list[str]) -> bool:
    return await kinds() == wanted
