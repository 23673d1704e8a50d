"""The price book applied by command, and plans: bought, used, overflowing, forfeited."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from clients.export.focus import FocusExport
from clients.export.list_prices import ListPrices
from clients.export.writers import CsvWriter
from clients.platform.billing_commands import BillingCommands
from clients.platform.connection import PlatformConnection
from clients.platform.queries import PlatformQueries
from shared import catalogue
from shared.contracts.audit import QueryAudit
from shared.contracts.commands import PurchasePlan
from shared.contracts.ledger import QueryLedger
from shared.contracts.prices import (
    PlanOffer,
    PreviewPriceBook,
    Price,
    PriceBook,
    PriceBookEvent,
    Tier,
)
from shared.contracts.queries import Nothing, QueryCharges
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import (
    current_minute,
    make_cell,
    split_into_batches,
    unique_domain,
    unique_name,
)
from tests.support.focus_rules import rule_violations, unbalanced_commitments
from tests.support.waiting import until

D = Decimal


def _connection(harness: BillingHarness, user: str) -> PlatformConnection:
    return PlatformConnection(harness.clients[user], harness.cluster.url, user, 20.0)


def _billing(harness: BillingHarness, user: str) -> BillingCommands:
    return BillingCommands(_connection(harness, user), user)


async def _apply(harness: BillingHarness, book: PriceBook, base: int) -> PriceBookEvent:
    return await _billing(harness, "operator").apply_price_book(book, base)


async def _with(
    harness: BillingHarness, *offers: PlanOffer, prices: tuple[Price, ...] = ()
) -> PriceBookEvent:
    """Return the current book with more in it."""
    current = await harness.ask(catalogue.RPC_PRICE_BOOK_SHOW, Nothing())
    book = current.book.model_copy(
        update={"plans": [*current.book.plans, *offers], "prices": [*current.book.prices, *prices]}
    )
    return await _apply(harness, book, current.serial)


async def _use(harness: BillingHarness, domain: str, requests: int, minute: int) -> None:
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, requests, minute)]])
    await harness.batch(batch)
    await harness.until_confirmed(batch)


async def _owned(harness: BillingHarness) -> tuple[str, str]:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account, datetime.now(UTC) - timedelta(days=40))
    await until(
        lambda: harness.database.fetchval(
            "select true from domain_facts where domain = $1", domain
        ),
        "owner known",
    )
    return domain, account


async def _charges(harness: BillingHarness, account: str) -> list[ChargeRow]:
    now = datetime.now(UTC)
    question = QueryCharges(
        account=account, start=now - timedelta(days=40), end=now + timedelta(days=40)
    )
    return (await harness.ask(catalogue.RPC_CHARGES_QUERY, question)).rows


async def _close(harness: BillingHarness, account: str) -> None:
    await harness.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged() -> bool:
        return not await harness.database.fetchval(
            "select exists (select from account_hours where account = $1 and requests <> "
            "charged) or exists"
            " (select from accounts where account = $1 and rate_from is not null)",
            account,
        )

    await until(charged, "all is charged")


async def test_plans_are_used_first_the_overflow_is_charged_and_every_line_names_plan_or_price(
    harness: BillingHarness,
) -> None:
    big, small = f"big-{new_id()[:6]}", f"small-{new_id()[:6]}"
    said = await _with(
        harness,
        PlanOffer(id=big, requests=50_000, days=90, prices={"CNY": D("0.2")}),
        PlanOffer(id=small, requests=10_000, days=1, prices={"CNY": D("0.04"), "USD": D("0.007")}),
    )
    assert said.change == "applied"
    domain, account = await _owned(harness)
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")
    platform = _billing(harness, "platform")
    bought = await platform.buy_plan(account, big, "CNY", "first")
    assert (bought.plan.requests, bought.plan.left, bought.balance) == (50_000, 50_000, D("0.8"))
    assert (await platform.buy_plan(account, big, "CNY", "first")).balance == D("0.8"), (
        "once per reference"
    )
    await platform.buy_plan(account, small, "CNY", "second")
    for plan, reference, currency, code in (
        ("no-such-plan", "third", "CNY", "plan.unknown"),
        (small, "first", "CNY", "balance.reference_used"),
        (small, "third", "USD", "balance.currency_differs"),
    ):
        with pytest.raises(Refused, match=code.replace(".", r"\.")):
            await platform.buy_plan(account, plan, currency, reference)
    await _use(harness, domain, 75_000, current_minute())
    assert (await harness.balance(account)).accrued == D("0.075"), "15,000 beyond the plans"
    await _close(harness, account)
    lines = {
        (row.plan, row.price_id): (row.requests, row.price, row.amount)
        for row in await _charges(harness, account)
    }
    assert lines == {
        ("second", None): (10_000, D(0), D(0)),
        ("first", None): (50_000, D(0), D(0)),
        (None, "list-cny"): (15_000, D("0.05"), D("0.075")),
    }
    assert (await harness.balance(account)).balance == D("0.685")
    plans = await PlatformQueries(_connection(harness, "platform")).plans(account)
    assert [(p.reference, p.used, p.left, p.ended) for p in plans] == [
        ("second", 10_000, 0, False),
        ("first", 50_000, 0, False),
    ]
    kinds = await harness.database.fetch(
        "select kind, amount, plan from ledger where account = $1 order by id", account
    )
    assert [(r["kind"], r["plan"]) for r in kinds[:3]] == [
        ("credit", None),
        ("plan", "first"),
        ("plan", "second"),
    ]


async def test_a_plan_that_the_balance_does_not_cover_is_refused(harness: BillingHarness) -> None:
    plan = f"dear-{new_id()[:6]}"
    await _with(harness, PlanOffer(id=plan, requests=1, days=1, prices={"CNY": D(5)}))
    account = unique_name("acct")
    await harness.credit(account, "4.99")
    await harness.until_balance_event(account, "credited")
    with pytest.raises(Refused, match=r"balance\.insufficient"):
        await _billing(harness, "platform").buy_plan(account, plan, "CNY", "one")
    assert (await harness.balance(account)).balance == D("4.99")


async def test_a_purchase_that_is_delivered_twice_counts_once(harness: BillingHarness) -> None:
    plan, account = f"twice-{new_id()[:6]}", unique_name("acct")
    await _with(harness, PlanOffer(id=plan, requests=10, days=1, prices={"CNY": D(1)}))
    await harness.credit(account, "3")
    await harness.until_balance_event(account, "credited")
    body = PurchasePlan(account=account, plan=plan, reference="one", currency="CNY")
    message = outgoing(
        catalogue.CMD_PLAN_PURCHASE,
        body,
        source="platform",
        about=account,
        at=datetime.now(UTC),
        dedupe=False,
    )
    for _ in range(3):
        await (
            harness.clients["platform"]
            .jetstream(timeout=5)
            .publish(message.subject, message.body, headers=message.headers)
        )
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited", 2)
    assert (await harness.balance(account)).balance == D(3)


async def test_late_usage_of_a_charged_hour_moves_the_plan_and_audit_agrees(
    harness: BillingHarness,
) -> None:
    plan = f"move-{new_id()[:6]}"
    await _with(harness, PlanOffer(id=plan, requests=10_000, days=2, prices={"CNY": D("0.04")}))
    domain, account = await _owned(harness)
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")
    # As if it had been bought three hours ago.
    harness.clock_file.write_text("-10800")
    try:
        await _billing(harness, "platform").buy_plan(account, plan, "CNY", "p")
    finally:
        harness.clock_file.write_text("0")
    await _use(harness, domain, 10_000, current_minute() - 60)
    await _close(harness, account)
    await _use(harness, domain, 4_000, current_minute() - 120)
    await _close(harness, account)
    rows = await _charges(harness, account)
    assert [(row.kind, row.plan, row.requests) for row in rows] == [
        ("charge", "p", 4_000),
        ("charge", "p", 10_000),
        ("correction", "p", -4_000),
        ("correction", None, 4_000),
    ]
    assert (await harness.balance(account)).balance == D("0.94")
    start = (datetime.now(UTC) - timedelta(hours=4)).replace(minute=0, second=0, microsecond=0)
    report = await harness.ask(
        catalogue.RPC_USAGE_AUDIT,
        QueryAudit(start=start, end=start + timedelta(hours=6)),
    )
    assert report.agrees, report.differences


async def test_a_book_is_previewed_applied_once_and_never_changes_an_hour_that_has_begun(
    harness: BillingHarness,
) -> None:
    current = await harness.ask(catalogue.RPC_PRICE_BOOK_SHOW, Nothing())
    later = (datetime.now(UTC) + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    cheap = Price(
        id=f"cheap-{new_id()[:6]}",
        currency="CNY",
        account=unique_name("acct"),
        start=later,
        tiers=[Tier(price=D("0.05")), Tier(above=1000, price=D("0.01"))],
    )
    book = current.book.model_copy(update={"prices": [*current.book.prices, cheap]})
    preview = await harness.ask(
        catalogue.RPC_PRICE_BOOK_PREVIEW, PreviewPriceBook(book=book), user="operator"
    )
    assert (preview.base, preview.findings) == (current.serial, [])
    assert len(preview.changes) == 1 and preview.changes[0].startswith(f"+ price {cheap.id}")
    said = await _apply(harness, book, preview.base)
    assert (said.change, said.serial) == ("applied", current.serial + 1)
    assert (await _apply(harness, book, preview.base)).codes == ["prices.changed"]
    at_once = book.model_copy(
        update={"prices": [p.model_copy(update={"start": None}) for p in book.prices]}
    )
    refused = await _apply(harness, at_once, said.serial)
    assert (refused.change, refused.codes) == ("refused", ["prices.retroactive"])
    assert (await harness.ask(catalogue.RPC_PRICE_BOOK_SHOW, Nothing())).book == book
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await harness.database.execute("update price_books set body = ''")


async def test_the_rest_of_a_plan_is_a_line_at_its_end_so_that_its_parts_add_up_to_its_price(
    harness: BillingHarness,
) -> None:
    """A third of the price has endless digits; and late usage takes from the forfeited rest."""
    plan = f"thirds-{new_id()[:6]}"
    await _with(harness, PlanOffer(id=plan, requests=3, days=1, prices={"CNY": D(1)}))
    domain, account = await _owned(harness)
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")
    harness.clock_file.write_text(str(-3 * 86_400))
    try:
        await _billing(harness, "platform").buy_plan(account, plan, "CNY", "p")
    finally:
        harness.clock_file.write_text("0")
    within = current_minute() - 3 * 1440 + 120
    third = D("0.333333333333333333")

    async def unused() -> list[tuple[int, D]]:
        rows = await harness.database.fetch(
            "select requests, plan_cost, amount from ledger where account = $1 and kind = "
            "'unused' order by id",
            account,
        )
        assert all(row["amount"] == 0 for row in rows)
        return [(row["requests"], row["plan_cost"]) for row in rows]

    async def until_unused(expected: list[tuple[int, D]]) -> None:
        async def so() -> bool:
            return await unused() == expected

        await until(so, f"the rest is {expected}")

    await _use(harness, domain, 1, within)
    await _close(harness, account)
    await until_unused([(2, 1 - third)])
    await _use(harness, domain, 1, within + 60)
    await _close(harness, account)
    await until_unused([(2, 1 - third), (-1, -third)])
    await _use(harness, domain, 5, within + 120)
    await _close(harness, account)
    await until_unused([(2, 1 - third), (-1, -third), (-1, -third)])
    assert sum(cost for _, cost in await unused()) == D("0.000000000000000001")

    queries = PlatformQueries(_connection(harness, "finance"))
    start = datetime.now(UTC) - timedelta(days=40)
    question = QueryLedger(account=account, start=start, end=start + timedelta(days=41))
    stream, place = io.StringIO(), ZoneInfo("UTC")
    sheet = FocusExport(place, ListPrices((await queries.price_book()).book)).build_sheet()
    writer = CsvWriter(stream, sheet, place)
    async for row in queries.ledger_rows(question):
        writer.write(sheet.values(row))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert list(rule_violations(rows)) == []
    assert list(unbalanced_commitments(rows)) == []
    assert {row["CommitmentDiscountStatus"] for row in rows} == {"", "Used", "Unused"}
    begin = datetime.fromtimestamp(within * 60, UTC).replace(minute=0) - timedelta(hours=4)
    report = await harness.ask(
        catalogue.RPC_USAGE_AUDIT,
        QueryAudit(start=begin, end=begin + timedelta(days=2)),
    )
    assert report.agrees, report.differences
    assert {row.kind for row in await _charges(harness, account)} == {"charge"}


async def test_the_database_refuses_a_line_in_another_currency_than_the_accounts(
    harness: BillingHarness,
) -> None:
    account = unique_name("acct")
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")
    line = (
        "insert into ledger (account, kind, amount, currency, reference, at) values ($1, "
        "'credit', 1, $2, $3, now())"
    )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await harness.database.execute(line, account, "USD", "dollars")
    with pytest.raises(
        asyncpg.InsufficientPrivilegeError
    ):  # not even to look whether lines hold on to it
        await harness.database.execute(
            "update accounts set currency = 'USD' where account = $1", account
        )
