"""Third part of the story: requests, usage, the charge, the balance."""

from __future__ import annotations

import secrets
import time
from decimal import Decimal
from typing import Final

from deploy.demo.context import (
    ACCOUNT,
    CURRENCY,
    ONE_IMAGE,
    PRICE_PER_10000,
    WWW,
    DemoContext,
    wait_for,
)
from deploy.demo.story import check, format_money
from deploy.demo.visitors.http_requests import VisitorConnection, send_requests
from deploy.demo.visitors.origin_server import ORIGIN_BODY
from shared import catalogue

_USAGE_SECONDS: Final = 20.0


def price_of(requests: int) -> Decimal:
    """Return the price of so many HTTPS requests."""
    return Decimal(PRICE_PER_10000) * requests / 10_000


async def open_account(context: DemoContext, requests: int) -> None:
    """Book a balance that these requests bring under its threshold, but not to zero."""
    price = price_of(requests)
    balance = price * Decimal("1.2")
    threshold = price * Decimal("0.4")
    with context.story.step(
        f"credit {format_money(balance)} {CURRENCY}, flag the balance as low below "
        f"{format_money(threshold)}"
    ):
        await _credit_account(context, balance)
        await context.customer.threshold(ACCOUNT, threshold, CURRENCY)

        async def is_set() -> bool:
            return (await context.customer.balance(ACCOUNT)).threshold == threshold

        await wait_for(is_set, _USAGE_SECONDS, lambda: "the threshold was not set")
        view = await context.customer.balance(ACCOUNT)
        check(not view.low, "the balance is low before any request")


async def send_and_count(context: DemoContext, total: int) -> None:
    """Send ``total`` requests and check that exactly so many are counted."""
    nodes = context.nodes
    with context.story.step(f"{total} HTTPS requests over {len(nodes)} nodes") as add_detail:
        tls = context.tls_context()
        # The first one's connection stays open: it must be refused after the disable.
        context.kept_alive = await VisitorConnection.open(nodes[0], WWW, tls)
        answer = await context.kept_alive.get("/first")
        check(
            answer.status == 200 and answer.body == ORIGIN_BODY,
            f"the first request was answered with {answer.status}",
        )
        began = time.monotonic()
        faults = await send_requests(nodes, [WWW, ONE_IMAGE], tls, total - 1)
        check(not faults, f"{len(faults)} requests were not answered well: {faults[:3]}")
        context.result.requests_sent = total
        rate = total / (time.monotonic() - began)
        add_detail(f"{rate:.0f} a second, every answer is the origin's")
    with context.story.step(f"usage is exactly {total}") as add_detail:
        await _wait_for_all_logs(context, total)
        counted = await _count_requests(context)
        start, end = context.billing_period()
        rows = await context.customer.usage(start, end, by="node", account=ACCOUNT)
        add_detail(", ".join(f"{row.key} {row.https_requests}" for row in rows))
        check(counted == total, f"{counted} requests were counted")


async def charge_hour(context: DemoContext, total: int) -> None:
    expected = price_of(total)
    with context.story.step(
        f"close the hour: {total} requests cost {format_money(expected)} {CURRENCY}"
    ) as add_detail:
        start, end = context.billing_period()
        await context.operator.close_hour(end)

        async def is_charged() -> bool:
            rows = await context.customer.charges(ACCOUNT, start, end)
            return sum(row.requests for row in rows) >= total

        await wait_for(is_charged, _USAGE_SECONDS, lambda: "the hour was not charged")
        rows = await context.customer.charges(ACCOUNT, start, end)
        amount = sum((row.amount for row in rows), Decimal(0))
        billed = sum(row.requests for row in rows)
        currency = rows[0].currency
        context.result.charge = format_money(amount)
        context.result.currency = currency
        context.result.requests_billed = billed
        price = format_money(rows[0].price)
        add_detail(f"{billed} requests at {price} a 10,000: {format_money(amount)}")
        check(billed == total, f"{billed} requests were charged")
        check(
            amount == expected and currency == CURRENCY,
            f"charged {format_money(amount)} {currency}",
        )


async def flag_low_balance(context: DemoContext) -> None:
    with context.story.step("the balance is flagged as low, once") as add_detail:

        async def is_low() -> bool:
            view = await context.customer.balance(ACCOUNT)
            return view.low and bool(await context.account_events(catalogue.EVENT_BALANCE_LOW))

        await wait_for(is_low, _USAGE_SECONDS, lambda: "the balance was not flagged")
        view = await context.customer.balance(ACCOUNT)
        limit = format_money(view.limit or Decimal(0))
        add_detail(f"balance {format_money(view.balance)} {view.currency}, limit {limit}")
    with context.story.step("a credit clears the flag"):
        await _credit_account(context, view.balance + 10)

        async def has_recovered() -> bool:
            return bool(await context.account_events(catalogue.EVENT_BALANCE_RECOVERED))

        await wait_for(has_recovered, _USAGE_SECONDS, lambda: "the flag was not cleared")
        view = await context.customer.balance(ACCOUNT)
        check(not view.low, "the balance is still low")
        flags = len(await context.account_events(catalogue.EVENT_BALANCE_LOW))
        context.result.low_balance_flags = flags
        check(flags == 1, f"{flags} low balance events, not 1")


async def _credit_account(context: DemoContext, amount: Decimal) -> None:
    reference = f"demo-{secrets.token_hex(4)}"
    event = await context.customer.credit(ACCOUNT, reference, amount, CURRENCY)
    check(event.change == "credited", f"the credit was {event.change}: {event.codes}")


async def _wait_for_all_logs(context: DemoContext, total: int) -> None:
    """Wait until the nodes' logs are in to their last byte."""
    counted = 0

    async def is_complete() -> bool:
        # Enough requests are not the proof: one counted twice would show only later. When every
        # byte that was read is stored and none is held back, nothing more can come.
        nonlocal counted
        counted = await _count_requests(context)
        if counted < total:
            return False
        logs = await context.customer.logs()
        return all(log.stored_to == log.read_to and not log.held for log in logs)

    await wait_for(
        is_complete, _USAGE_SECONDS, lambda: f"{counted} of {total} requests were counted"
    )


async def _count_requests(context: DemoContext) -> int:
    start, end = context.billing_period()
    rows = await context.customer.usage(start, end, by="account", account=ACCOUNT)
    return sum(row.https_requests for row in rows)
