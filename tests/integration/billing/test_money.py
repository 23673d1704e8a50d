"""Charges, credits, flags: exact, once, and never edited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from shared import catalogue
from shared.contracts.commands import CreditBalance
from shared.contracts.queries import QueryCharges
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import (
    current_minute,
    make_cell,
    split_into_batches,
    unique_domain,
    unique_name,
)
from tests.support.waiting import until


async def _account(harness: BillingHarness) -> tuple[str, str]:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    await until(
        lambda: harness.database.fetchval(
            "select true from domain_facts where domain = $1", domain
        ),
        "owner known",
    )
    return domain, account


async def _use(
    harness: BillingHarness, domain: str, requests: int, minute: int | None = None
) -> None:
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, requests, minute)]])
    await harness.batch(batch)
    await harness.until_confirmed(batch)


async def _charges(harness: BillingHarness, account: str) -> list[ChargeRow]:
    now, found, after = datetime.now(UTC), [], None
    while True:
        question = QueryCharges(
            account=account,
            start=now - timedelta(days=40),
            end=now + timedelta(hours=2),
            after=after,
            limit=2,
        )
        page = await harness.ask(catalogue.RPC_CHARGES_QUERY, question)
        found += page.rows
        if page.next is None:
            return found
        after = page.next


async def test_five_thousand_requests_cost_exactly_the_price_before_and_after_the_hour_is_closed(
    harness: BillingHarness,
) -> None:
    domain, account = await _account(harness)
    await harness.credit(account, "10")
    await harness.until_balance_event(account, "credited")
    await _use(harness, domain, 5_000)
    before = await harness.balance(account)
    assert (before.ledger, before.accrued, before.balance) == (
        Decimal(10),
        Decimal("0.025"),
        Decimal("9.975"),
    )
    assert (before.low, before.depleted, before.limit, before.hours_left) == (
        False,
        False,
        None,
        None,
    )
    for _ in range(2):
        await harness.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged() -> bool:
        return (await harness.balance(account)).accrued == 0

    await until(charged, "the hour is charged")
    after = await harness.balance(account)
    assert (after.ledger, after.balance) == (Decimal("9.975"), Decimal("9.975"))
    assert (after.limit, after.hours_left) == (Decimal("0.075"), Decimal(399))
    (line,) = await _charges(harness, account)
    assert (line.kind, line.requests, line.price, line.amount, line.currency) == (
        "charge",
        5_000,
        Decimal("0.05"),
        Decimal("0.025"),
        "CNY",
    )


async def test_usage_that_arrives_after_its_hour_was_charged_is_a_correction(
    harness: BillingHarness,
) -> None:
    domain, account = await _account(harness)
    minute = current_minute() - 300
    hour_end = datetime.fromtimestamp((minute // 60 + 1) * 3600, UTC)
    await _use(harness, domain, 100, minute)
    await harness.close_hour(hour_end)
    await until(lambda: _charges(harness, account), "charged")
    for _ in range(3):
        await _use(harness, domain, 11, minute)
        await harness.close_hour(hour_end)

    async def settled() -> bool:
        return sum(row.requests for row in await _charges(harness, account)) == 133

    await until(settled, "corrected")
    rows = await _charges(harness, account)
    assert rows[0].kind == "charge" and {row.kind for row in rows[1:]} == {"correction"}
    balance = await harness.balance(account)
    assert balance.ledger == -Decimal("0.000005") * 133 and balance.accrued == 0


async def test_a_credit_counts_once_by_reference_and_another_amount_or_currency_is_refused(
    harness: BillingHarness,
) -> None:
    account = unique_name("acct")
    for _ in range(3):
        await harness.credit(account, "5.00", "ref-1")
    await harness.credit(account, "5", "ref-1")
    await harness.credit(account, "6", "ref-1")
    await harness.credit(account, "7", "ref-2", currency="USD")
    await harness.credit(account, "7", "ref-3", currency="XYZ")
    await harness.until_balance_event(account, "refused", 3)
    assert [event.codes for event in await harness.balance_events(account, "refused")] == [
        ["balance.reference_used"],
        ["balance.currency_differs"],
        ["balance.currency_differs"],
    ]
    booked = await harness.balance_events(account, "credited")
    assert [(event.reference, event.balance) for event in booked] == [("ref-1", Decimal(5))] * 4, (
        "each order hears it"
    )
    assert (await harness.balance(account)).balance == Decimal(5)


async def test_an_account_in_dollars_is_rated_in_dollars(harness: BillingHarness) -> None:
    domain, account = await _account(harness)
    await harness.credit(account, "1", currency="USD")
    await harness.until_balance_event(account, "credited")
    await _use(harness, domain, 10_000)
    view = await harness.balance(account)
    assert (view.currency, view.accrued) == ("USD", Decimal("0.008"))


async def test_every_change_of_a_flag_is_published_once(harness: BillingHarness) -> None:
    domain, account = await _account(harness)
    await harness.threshold(account, "1")
    await harness.credit(account, "1.01", "first")
    await harness.until_balance_event(account, "credited")
    await _use(harness, domain, 1_000)
    assert await harness.balance_events(account, "low") == []
    started = datetime.now(UTC)
    await _use(harness, domain, 2_000)
    low = await harness.until_balance_event(account, "low")
    assert datetime.now(UTC) - started < timedelta(seconds=2)
    assert (low.balance, low.limit, low.crossing) == (Decimal("0.995"), Decimal(1), 1)
    await _use(harness, domain, 2_000)
    await harness.credit(account, "0.1", "too-little")
    await harness.until_balance_event(account, "credited", 2)
    assert (await harness.balance(account)).low
    await harness.credit(account, "0.2", "clears-it")
    assert (await harness.until_balance_event(account, "recovered")).crossing == 2
    await _use(harness, domain, 300_000)
    assert (await harness.until_balance_event(account, "depleted")).balance == Decimal("-0.215")
    await harness.credit(account, "10", "settles-it")
    await harness.until_balance_event(account, "settled")
    await harness.until_balance_event(account, "recovered", 2)
    said = [
        (e.change, e.crossing)
        for e in harness.events
        if e.account == account and e.change != "credited"
    ]
    assert said[:2] == [("low", 1), ("recovered", 2)]
    assert sorted(said[2:4]) == [("depleted", 4), ("low", 3)] and sorted(said[4:]) == [
        ("recovered", 5),
        ("settled", 6),
    ]


async def test_three_mean_hours_flag_a_balance_without_any_threshold(
    harness: BillingHarness,
) -> None:
    domain, account = await _account(harness)
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")
    for hours_ago in (3, 2):
        await _use(harness, domain, 40_000, current_minute() - hours_ago * 60)
    assert await harness.balance_events(account, "low") == []
    await harness.close_hour(datetime.now(UTC))

    async def limited() -> bool:
        return (await harness.balance(account)).limit == Decimal("0.6")

    await until(limited, "the rule is on")
    assert not (await harness.balance(account)).low
    await _use(harness, domain, 40_001)
    await harness.until_balance_event(account, "low")
    assert len(await harness.balance_events(account, "low")) == 1


async def test_the_ledger_refuses_update_delete_and_truncate_even_by_sql(
    harness: BillingHarness,
) -> None:
    account = unique_name("acct")
    await harness.credit(account, "5")
    await harness.until_balance_event(account, "credited")
    for statement in ("update ledger set amount = 0", "delete from ledger", "truncate ledger"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await harness.database.execute(statement)
        async with harness.database.acquire() as connection:
            turn = connection.transaction()
            await turn.start()
            await connection.execute("grant all on ledger to current_user")
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await connection.execute(statement)
            await turn.rollback()


@pytest.mark.parametrize(
    ("case", "columns", "values"),
    [
        ("a credit of nothing", "kind, amount, currency, reference", "'credit', 0, 'CNY', 'r'"),
        (
            "a charge that pays",
            "kind, amount, currency, hour, posting, requests, price",
            "'charge', 1, 'CNY', 1, 1, 1, 1",
        ),
        (
            "a charge without its usage",
            "kind, amount, currency, hour, posting, price",
            "'charge', -1, 'CNY', 1, 1, 1",
        ),
        (
            "a charge with a reference",
            "kind, amount, currency, hour, posting, requests, price, reference",
            "'charge', -1, 'CNY', 1, 1, 1, 1, 'r'",
        ),
        ("a plan without its name", "kind, amount, currency, reference", "'plan', -1, 'CNY', 'r'"),
        ("no currency", "kind, amount, currency, reference", "'credit', 1, 'yuan', 'r'"),
        ("an unknown kind", "kind, amount, currency, reference", "'gift', 1, 'CNY', 'r'"),
    ],
)
async def test_the_database_refuses_ledger_lines_that_make_no_sense(
    harness: BillingHarness, case: str, columns: str, values: str
) -> None:
    account = unique_name("acct")
    await harness.credit(account, "5")
    await harness.until_balance_event(account, "credited")
    with pytest.raises(asyncpg.CheckViolationError):
        await harness.database.execute(
            f"insert into ledger (account, at, {columns}) values ('{account}', now(), {values})"
        )


async def test_a_redelivered_refusal_is_published_once(harness: BillingHarness) -> None:
    account = unique_name("acct")
    await harness.credit(account, "5", "ref-1")
    await harness.until_balance_event(account, "credited")
    command = CreditBalance(account=account, reference="ref-1", amount=Decimal(9), currency="CNY")
    message = outgoing(
        catalogue.CMD_BALANCE_CREDIT,
        command,
        source="platform",
        about=account,
        at=datetime.now(UTC),
        dedupe=False,
    )
    for _ in range(2):
        await Publisher(harness.clients["platform"]).publish(message)
    await harness.credit(account, "1", "ref-2")
    await harness.until_balance_event(account, "credited", 2)
    assert len(await harness.balance_events(account, "refused")) == 1


async def test_an_unknown_account_has_nothing_and_a_broken_page_mark_is_refused(
    harness: BillingHarness,
) -> None:
    view = await harness.balance("never-was")
    assert (view.balance, view.currency, view.low, view.depleted) == (0, "CNY", False, False)
    with pytest.raises(Refused, match=r"request\.malformed"):
        await harness.usage(after="yesterday|x")
    with pytest.raises(Refused, match=r"request\.malformed"):
        now = datetime.now(UTC)
        await harness.ask(
            catalogue.RPC_CHARGES_QUERY,
            QueryCharges(account="a", start=now, end=now, after="x"),
        )


async def test_malformed_commands_become_dead_letters(harness: BillingHarness) -> None:
    await harness.publish_raw(
        "billing", catalogue.CMD_BALANCE_CREDIT, b'{"account": "a", "amount": "-1"}'
    )
    await harness.until_dead_letter("malformed: a command needs its ce-id")


async def test_future_hours_cannot_be_closed(harness: BillingHarness) -> None:
    for ahead in (timedelta(hours=3), timedelta(days=1500)):
        await harness.close_hour(datetime.now(UTC) + ahead)
    await harness.until_dead_letter("malformed: until lies after the hour that runs")
