"""Balances, credits and closing hours; usage, charges and statements are in reports.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from clients.cli import completeness, reports
from clients.cli.command import Link, command, group
from clients.cli.files import parse_time
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.findings import Code, findings_from
from shared.errors import Refused, SettingsError
from shared.ids import new_id

balance_app = typer.Typer(
    help="Show an account's balance, credit it, set its low-balance limit.", no_args_is_help=True
)
hour_app = typer.Typer(help="Close hours: post their usage as charges.", no_args_is_help=True)
CurrencyOption = Annotated[str, typer.Option(help="The account's currency: CNY or USD.")]


@command(
    balance_app,
    "show",
    examples=["edgetls balance show", "edgetls balance show --account acme --json"],
)
async def balance_show(link: Link) -> None:
    """The balance, what is accrued, and whether it is low, depleted or overdue."""
    async with link.platform() as platform:
        view = await platform.balance(link.account)
    link.out.data(view)
    link.out.table(("", ""), _balance_rows(view))


@command(
    balance_app,
    "credit",
    examples=["edgetls balance credit 100.00 --currency CNY --reference payment-4711"],
)
async def balance_credit(
    link: Link,
    amount: Annotated[str, typer.Argument(help="Above 0, as a decimal number.")],
    currency: CurrencyOption = "CNY",
    reference: Annotated[
        str | None, typer.Option(help="Booked once per reference; default: a new one.")
    ] = None,
) -> None:
    """Adds money to the account and waits until it is booked."""
    async with link.platform() as platform:
        event = await platform.credit(link.account, reference or new_id(), amount, currency)
    _refuse_credit(event)
    link.out.data(event)
    booked = f"credited {amount} {currency} (reference {event.reference})"
    link.out.line(f"{booked}: balance {event.balance:f} {event.currency}")


@command(
    balance_app,
    "threshold",
    examples=[
        "edgetls balance threshold 50 --currency CNY",
        "edgetls balance threshold off --currency CNY",
    ],
)
async def balance_threshold(
    link: Link,
    threshold: Annotated[
        str, typer.Argument(help="Flag the balance as low below this amount; 'off' for none.")
    ],
    currency: CurrencyOption = "CNY",
) -> None:
    """Sets the account's own low-balance limit and waits until it holds."""
    async with link.platform() as platform:
        view = await platform.threshold(
            link.account, None if threshold == "off" else threshold, currency
        )
    link.out.data(view)
    link.out.line(f"the low-balance limit of {link.account} is {threshold}")


@command(
    hour_app,
    "close",
    examples=["edgetls hour close", "edgetls hour close --until 2026-05-01T13:00:00Z"],
)
async def hour_close(
    link: Link,
    until: Annotated[
        str | None, typer.Option(help="Close hours that end at or before this; default: now.")
    ] = None,
) -> None:
    """Posts the usage of the hours up to a time as charges (operator), at the latest of the hour
    that runs; waits until it is done."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    moment = parse_time(until) if until else hour
    if moment >= hour + timedelta(hours=2):
        raise SettingsError(
            "--until lies in the future: the hour that runs is the last that can be closed"
        )
    async with link.platform("operator") as platform:
        closed = await platform.close_hour(moment)
    link.out.data(closed)
    link.out.line(
        f"hours until {closed.until:%Y-%m-%d %H:%M} UTC are closed: {closed.lines} charges"
    )


def add_to(app: typer.Typer) -> None:
    under_usage = group(
        app,
        "usage",
        reports.usage,
        examples=[
            "edgetls usage --by node --granularity 5m",
            (
                "edgetls usage --from 2026-05-01 --to 2026-06-01 --granularity day --zone "
                "Asia/Shanghai --format csv"
            ),
            "edgetls usage --unattributed",
        ],
    )
    completeness.add_to(app, under_usage)
    command(
        app,
        "charges",
        examples=[
            "edgetls charges --from 2026-05-01 --json",
            (
                "edgetls charges --all-accounts --from 2026-05-01 --to 2026-06-01 --format parquet "
                "--output may.parquet"
            ),
            (
                "edgetls charges --all-accounts --credits --focus --from 2026-05-01 --to "
                "2026-06-01 --output may-focus.csv"
            ),
        ],
    )(reports.charges)
    command(
        app,
        "statement",
        examples=[
            "edgetls statement --account acme",
            "edgetls statement 2026-05 --account acme --zone Asia/Shanghai --by hour",
            "edgetls statement 2026-05 --account acme --format csv --output acme-2026-05.csv",
        ],
    )(reports.statement)
    app.add_typer(balance_app, name="balance")
    app.add_typer(hour_app, name="hour")


def _refuse_credit(event: BalanceEvent) -> None:
    if event.change == "refused":
        raise Refused(findings_from(event.codes, unknown=Code.REQUEST_MALFORMED))


def _balance_rows(view: BalanceView) -> list[tuple[str, object]]:
    flags = [
        name
        for name, on in (("low", view.low), ("depleted", view.depleted), ("overdue", view.overdue))
        if on
    ]
    return [
        ("account", view.account),
        ("balance", f"{view.balance:f} {view.currency}"),
        ("  ledger", f"{view.ledger:f}"),
        ("  accrued", f"{view.accrued:f}"),
        ("flags", ", ".join(flags) or "none"),
        ("low below", "-" if view.limit is None else f"{view.limit:f}"),
        ("own limit", "-" if view.threshold is None else f"{view.threshold:f}"),
        ("hours left", "-" if view.hours_left is None else f"{view.hours_left:.1f}"),
    ]
