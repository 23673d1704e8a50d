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
from tests.integration.billing.harness import Stage, cell, current_minute, domain_name, name, split
from tests.support.waiting import until


async def _account(staged: Stage) -> tuple[str, str]:
    domain, account = domain_name(), name("acct")
    await staged.register(domain, account)
    await until(
        lambda: staged.database.fetchval("select true from domain_facts where domain = $1", domain),
        "owner known",
    )
    return domain, account


async def _use(staged: Stage, domain: str, requests: int, minute: int | None = None) -> None:
    (batch,) = split(new_id(), [[cell(domain, requests, minute)]])
    await staged.batch(batch)
    await staged.until_confirmed(batch)


async def _charges(staged: Stage, account: str) -> list[ChargeRow]:
    now, found, after = datetime.now(UTC), [], None
    while True:
        question = QueryCharges(
            account=account,
            start=now - timedelta(days=40),
            end=now + timedelta(hours=2),
            after=after,
            limit=2,
        )
        page = await staged.ask(catalogue.RPC_CHARGES_QUERY, question)
        found += page.rows
        if page.next is None:
            return found
        after = page.next


async def test_five_thousand_requests_cost_exactly_the_price_before_and_after_the_hour_is_closed(
    staged: Stage,
) -> None:
    domain, account = await _account(staged)
    await staged.credit(account, "10")
    await staged.until_balance_event(account, "credited")
    await _use(staged, domain, 5_000)
    before = await staged.balance(account)
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
        await staged.close_hour(datetime.now(UTC) + timedelta(hours=1))

    async def charged() -> bool:
        return (await staged.balance(account)).accrued == 0

    await until(charged, "the hour is charged")
    after = await staged.balance(account)
    assert (after.ledger, after.balance) == (Decimal("9.975"), Decimal("9.975"))
    assert (after.limit, after.hours_left) == (Decimal("0.075"), Decimal(399))
    (line,) = await _charges(staged, account)
    assert (line.kind, line.requests, line.price, line.amount, line.currency) == (
        "charge",
        5_000,
        Decimal("0.05"),
        Decimal("0.025"),
        "CNY",
    )


async def test_usage_that_arrives_after_its_hour_was_charged_is_a_correction(staged: Stage) -> None:
    domain, account = await _account(staged)
    minute = current_minute() - 300
    hour_end = datetime.fromtimestamp((minute // 60 + 1) * 3600, UTC)
    await _use(staged, domain, 100, minute)
    await staged.close_hour(hour_end)
    await until(lambda: _charges(staged, account), "charged")
    for _ in range(3):
        await _use(staged, domain, 11, minute)
        await staged.close_hour(hour_end)

    async def settled() -> bool:
        return sum(row.requests for row in await _charges(staged, account)) == 133

    await until(settled, "corrected")
    rows = await _charges(staged, account)
    assert rows[0].kind == "charge" and {row.kind for row in rows[1:]} == {"correction"}
    balance = await staged.balance(account)
    assert balance.ledger == -Decimal("0.000005") * 133 and balance.accrued == 0


async def test_a_credit_counts_once_by_reference_and_another_amount_or_currency_is_refused(
    staged: Stage,
) -> None:
    account = name("acct")
    for _ in range(3):
        await staged.credit(account, "5.00", "ref-1")
    await staged.credit(account, "5", "ref-1")
    await staged.credit(account, "6", "ref-1")
    await staged.credit(account, "7", "ref-2", currency="USD")
    await staged.credit(account, "7", "ref-3", currency="XYZ")
    await staged.until_balance_event(account, "refused", 3)
    assert [event.codes for event in await staged.balance_events(account, "refused")] == [
        ["balance.reference_used"],
        ["balance.currency_differs"],
        ["balance.currency_differs"],
    ]
    booked = await staged.balance_events(account, "credited")
    assert [(event.reference, event.balance) for event in booked] == [("ref-1", Decimal(5))] * 4, (
        "each order hears it"
    )
    assert (await staged.balance(account)).balance == Decimal(5)


async def test_an_account_in_dollars_is_rated_in_dollars(staged: Stage) -> None:
    domain, account = await _account(staged)
    await staged.credit(account, "1", currency="USD")
    await staged.until_balance_event(account, "credited")
    await _use(staged, domain, 10_000)
    view = await staged.balance(account)
    assert (view.currency, view.accrued) == ("USD", Decimal("0.008"))


async def test_every_change_of_a_flag_is_published_once(staged: Stage) -> None:
    domain, account = await _account(staged)
    await staged.threshold(account, "1")
    await staged.credit(account, "1.01", "first")
    await staged.until_balance_event(account, "credited")
    await _use(staged, domain, 1_000)
    assert await staged.balance_events(account, "low") == []
    started = datetime.now(UTC)
    await _use(staged, domain, 2_000)
    low = await staged.until_balance_event(account, "low")
    assert datetime.now(UTC) - started < timedelta(seconds=2)
    assert (low.balance, low.limit, low.crossing) == (Decimal("0.995"), Decimal(1), 1)
    await _use(staged, domain, 2_000)
    await staged.credit(account, "0.1", "too-little")
    await staged.until_balance_event(account, "credited", 2)
    assert (await staged.balance(account)).low
    await staged.credit(account, "0.2", "clears-it")
    assert (await staged.until_balance_event(account, "recovered")).crossing == 2
    await _use(staged, domain, 300_000)
    assert (await staged.until_balance_event(account, "depleted")).balance == Decimal("-0.215")
    await staged.credit(account, "10", "settles-it")
    await staged.until_balance_event(account, "settled")
    await staged.until_balance_event(account, "recovered", 2)
    said = [
        (e.change, e.crossing)
        for e in staged.events
        if e.account == account and e.change != "credited"
    ]
    assert said[:2] == [("low", 1), ("recovered", 2)]
    assert sorted(said[2:4]) == [("depleted", 4), ("low", 3)] and sorted(said[4:]) == [
        ("recovered", 5),
        ("settled", 6),
    ]


async def test_three_mean_hours_flag_a_balance_without_any_threshold(staged: Stage) -> None:
    domain, account = await _account(staged)
    await staged.credit(account, "1")
    await staged.until_balance_event(account, "credited")
    for hours_ago in (3, 2):
        await _use(staged, domain, 40_000, current_minute() - hours_ago * 60)
    assert await staged.balance_events(account, "low") == []
    await staged.close_hour(datetime.now(UTC))

    async def limited() -> bool:
        return (await staged.balance(account)).limit == Decimal("0.6")

    await until(limited, "the rule is on")
    assert not (await staged.balance(account)).low
    await _use(staged, domain, 40_001)
    await staged.until_balance_event(account, "low")
    assert len(await staged.balance_events(account, "low")) == 1


async def test_the_ledger_refuses_update_delete_and_truncate_even_by_sql(staged: Stage) -> None:
    account = name("acct")
    await staged.credit(account, "5")
    await staged.until_balance_event(account, "credited")
    for statement in ("update ledger set amount = 0", "delete from ledger", "truncate ledger"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await staged.database.execute(statement)
        async with staged.database.acquire() as connection:
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
    staged: Stage, case: str, columns: str, values: str
) -> None:
    account = name("acct")
    await staged.credit(account, "5")
    await staged.until_balance_event(account, "credited")
    with pytest.raises(asyncpg.CheckViolationError):
        await staged.database.execute(
            f"insert into ledger (account, at, {columns}) values ('{account}', now(), {values})"
        )


async def test_a_redelivered_refusal_is_published_once(staged: Stage) -> None:
    account = name("acct")
    await staged.credit(account, "5", "ref-1")
    await staged.until_balance_event(account, "credited")
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
        await Publisher(staged.clients["platform"]).publish(message)
    await staged.credit(account, "1", "ref-2")
    await staged.until_balance_event(account, "credited", 2)
    assert len(await staged.balance_events(account, "refused")) == 1


async def test_an_unknown_account_has_nothing_and_a_broken_page_mark_is_refused(
    staged: Stage,
) -> None:
    view = await staged.balance("never-was")
    assert (view.balance, view.currency, view.low, view.depleted) == (0, "CNY", False, False)
    with pytest.raises(Refused, match=r"request\.malformed"):
        await staged.usage(after="yesterday|x")
    with pytest.raises(Refused, match=r"request\.malformed"):
        now = datetime.now(UTC)
        await staged.ask(
            catalogue.RPC_CHARGES_QUERY,
            QueryCharges(account="a", start=now, end=now, after="x"),
        )


async def test_malformed_commands_become_dead_letters(staged: Stage) -> None:
    await staged.raw(catalogue.CMD_BALANCE_CREDIT, b'{"account": "a", "amount": "-1"}')
    await staged.until_dead_letter("malformed: a command needs its ce-id")


async def test_future_hours_cannot_be_closed(staged: Stage) -> None:
    for ahead in (timedelta(hours=3), timedelta(days=1500)):
        await staged.close_hour(datetime.now(UTC) + ahead)
    await staged.until_dead_letter("malformed: until lies after the hour that runs")
