"""Second part of the story: requests, usage, the charge, the balance."""

from __future__ import annotations

import secrets
import time
from decimal import Decimal

from deploy.demo.stage import ACCOUNT, CURRENCY, ONE_IMAGE, PRICE_PER_10000, WWW, Stage, until
from deploy.demo.story import Story, check, money
from deploy.demo.traffic import BODY, Visitor, send_requests
from shared import catalogue

_USAGE_SECONDS = 20.0


def price_of(requests: int) -> Decimal:
    return Decimal(PRICE_PER_10000) * requests / 10_000


async def open_account(story: Story, stage: Stage, requests: int) -> None:
    """A balance that these requests bring under its threshold, but not to zero."""
    price = price_of(requests)
    balance, threshold = price * Decimal("1.2"), price * Decimal("0.4")
    with story.step(
        f"credit {money(balance)} {CURRENCY}, flag the balance as low below {money(threshold)}"
    ):
        event = await stage.customer.credit(
            ACCOUNT, f"demo-{secrets.token_hex(4)}", balance, CURRENCY
        )
        check(event.change == "credited", f"the credit was {event.change}: {event.codes}")
        await stage.customer.threshold(ACCOUNT, threshold, CURRENCY)

        async def is_set() -> bool:
            return (await stage.customer.balance(ACCOUNT)).threshold == threshold

        await until(is_set, _USAGE_SECONDS, lambda: "the threshold was not set")
        check(
            not (await stage.customer.balance(ACCOUNT)).low, "the balance is low before any request"
        )


async def requests(story: Story, stage: Stage, total: int) -> None:
    with story.step(f"{total} HTTPS requests over {len(stage.nodes)} nodes") as detail:
        context = stage.context()
        # The first one's connection stays open: it must be refused after the disable.
        stage.kept_alive = await Visitor.arrive(stage.nodes[0], WWW, context)
        answer = await stage.kept_alive.get("/first")
        check(
            answer.status == 200 and answer.body == BODY,
            f"the first request was answered with {answer.status}",
        )
        began = time.monotonic()
        faults = await send_requests(stage.nodes, [WWW, ONE_IMAGE], context, total - 1)
        check(not faults, f"{len(faults)} requests were not answered well: {faults[:3]}")
        stage.result.requests_sent = total
        detail(f"{total / (time.monotonic() - began):.0f} a second, every answer is the origin's")
    with story.step(f"usage is exactly {total}") as detail:
        await _exactly(stage, total)
        counted = await _counted(stage)
        start, end = stage.period()
        by_node = await stage.customer.usage(start, end, by="node", account=ACCOUNT)
        detail(", ".join(f"{row.key} {row.https_requests}" for row in by_node))
        check(counted == total, f"{counted} requests were counted")


async def charge(story: Story, stage: Stage, total: int) -> None:
    expected = price_of(total)
    with story.step(
        f"close the hour: {total} requests cost {money(expected)} {CURRENCY}"
    ) as detail:
        start, end = stage.period()
        await stage.operator.close_hour(end)

        async def charged() -> bool:
            return (
                sum(row.requests for row in await stage.customer.charges(ACCOUNT, start, end))
                >= total
            )

        await until(charged, _USAGE_SECONDS, lambda: "the hour was not charged")
        rows = await stage.customer.charges(ACCOUNT, start, end)
        amount = sum((row.amount for row in rows), Decimal(0))
        stage.result.charge, stage.result.currency = money(amount), rows[0].currency
        billed = stage.result.requests_billed = sum(row.requests for row in rows)
        detail(f"{billed} requests at {money(rows[0].price)} a 10,000: {money(amount)}")
        check(billed == total, f"{billed} requests were charged")
        check(
            amount == expected and rows[0].currency == CURRENCY,
            f"charged {money(amount)} {rows[0].currency}",
        )


async def low_balance(story: Story, stage: Stage) -> None:
    with story.step("the balance is flagged as low, once") as detail:

        async def is_low() -> bool:
            return (await stage.customer.balance(ACCOUNT)).low and bool(
                await stage.events(catalogue.EVENT_BALANCE_LOW)
            )

        await until(is_low, _USAGE_SECONDS, lambda: "the balance was not flagged")
        view = await stage.customer.balance(ACCOUNT)
        detail(
            f"balance {money(view.balance)} {view.currency}, limit "
            f"{money(view.limit or Decimal(0))}"
        )
    with story.step("a credit clears the flag"):
        event = await stage.customer.credit(
            ACCOUNT, f"demo-{secrets.token_hex(4)}", view.balance + 10, CURRENCY
        )
        check(event.change == "credited", f"the credit was {event.change}: {event.codes}")

        async def has_recovered() -> bool:
            return bool(await stage.events(catalogue.EVENT_BALANCE_RECOVERED))

        await until(has_recovered, _USAGE_SECONDS, lambda: "the flag was not cleared")
        check(not (await stage.customer.balance(ACCOUNT)).low, "the balance is still low")
        stage.result.low_balance_flags = len(await stage.events(catalogue.EVENT_BALANCE_LOW))
        check(
            stage.result.low_balance_flags == 1,
            f"{stage.result.low_balance_flags} low balance events, not 1",
        )


async def _exactly(stage: Stage, total: int) -> None:
    """Until every log is in to its last byte, so that nothing more can come."""
    counted = 0

    async def complete() -> bool:
        nonlocal counted
        counted = await _counted(stage)
        logs = await stage.customer.logs()
        return counted >= total and all(
            log.stored_to == log.read_to and not log.held for log in logs
        )

    await until(complete, _USAGE_SECONDS, lambda: f"{counted} of {total} requests were counted")


async def _counted(stage: Stage) -> int:
    start, end = stage.period()
    rows = await stage.customer.usage(start, end, by="account", account=ACCOUNT)
    return sum(row.https_requests for row in rows)
