"""The commands on balances, credits and closing hours, and the registration of those on usage,
charges and statements (reports.py)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import typer

from clients.cli import completeness, reports
from clients.cli.command import Context, add_group, command
from clients.cli.files import parse_time
from shared.contracts.balance import BalanceView
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
async def show_balance(context: Context) -> None:
    """Show the balance, what is accrued, and whether it is low, depleted or overdue."""
    async with context.platform() as platform:
        view = await platform.balance(context.account)
    context.output.show_record(view, balance_fields(view))


@command(
    balance_app,
    "credit",
    examples=["edgetls balance credit 100.00 --currency CNY --reference payment-4711"],
)
async def credit_balance(
    context: Context,
    amount: Annotated[str, typer.Argument(help="Above 0, as a decimal number.")],
    currency: CurrencyOption = "CNY",
    reference: Annotated[
        str | None, typer.Option(help="Booked once per reference; default: a new one.")
    ] = None,
) -> None:
    """Add money to the account and wait until it is booked."""
    async with context.platform() as platform:
        event = await platform.credit(context.account, reference or new_id(), amount, currency)
    if event.change == "refused":
        raise Refused(findings_from(event.codes, unknown=Code.REQUEST_MALFORMED))
    context.output.data(event)
    context.output.line(
        f"credited {amount} {currency} (reference {event.reference}): "
        f"balance {event.balance:f} {event.currency}"
    )


@command(
    balance_app,
    "threshold",
    examples=[
        "edgetls balance threshold 50 --currency CNY",
        "edgetls balance threshold off --currency CNY",
    ],
)
async def set_threshold(
    context: Context,
    threshold: Annotated[
        str, typer.Argument(help="Flag the balance as low below this amount; 'off' for none.")
    ],
    currency: CurrencyOption = "CNY",
) -> None:
    """Set the account's own low-balance limit and wait until it holds."""
    limit = None if threshold == "off" else threshold
    async with context.platform() as platform:
        view = await platform.threshold(context.account, limit, currency)
    context.output.data(view)
    context.output.line(f"the low-balance limit of {context.account} is {threshold}")


@command(
    hour_app,
    "close",
    examples=["edgetls hour close", "edgetls hour close --until 2026-05-01T13:00:00Z"],
)
async def close_hour(
    context: Context,
    until: Annotated[
        str | None, typer.Option(help="Close hours that end at or before this; default: now.")
    ] = None,
) -> None:
    """Post the usage of the hours up to a time as charges (operator), at the latest of the current
    hour, and wait until it is done."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    moment = hour
    if until:
        moment = parse_time(until)
    if moment >= hour + timedelta(hours=2):
        raise SettingsError(
            "--until lies in the future: the current hour is the last that can be closed"
        )
    async with context.platform("operator") as platform:
        closed = await platform.close_hour(moment)
    context.output.data(closed)
    context.output.line(
        f"hours until {closed.until:%Y-%m-%d %H:%M} UTC are closed: {closed.lines} charges"
    )


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    usage_group = add_group(
        app,
        "usage",
        reports.show_usage,
        examples=[
            "edgetls usage --by node --granularity 5m",
            (
                "edgetls usage --from 2026-05-01 --to 2026-06-01 --granularity day --zone "
                "Asia/Shanghai --format csv"
            ),
            "edgetls usage --unattributed",
        ],
    )
    completeness.add_to(app, usage_group)
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
    )(reports.show_charges)
    command(
        app,
        "statement",
        examples=[
            "edgetls statement --account acme",
            "edgetls statement 2026-05 --account acme --zone Asia/Shanghai --by hour",
            "edgetls statement 2026-05 --account acme --format csv --output acme-2026-05.csv",
        ],
    )(reports.show_statement)
    app.add_typer(balance_app, name="balance")
    app.add_typer(hour_app, name="hour")


def balance_fields(view: BalanceView) -> list[tuple[str, object]]:
    """Return what people read of a balance."""
    flags = []
    if view.low:
        flags.append("low")
    if view.depleted:
        flags.append("depleted")
    if view.overdue:
        flags.append("overdue")
    hours_left = "-" if view.hours_left is None else f"{view.hours_left:.1f}"
    return [
        ("account", view.account),
        ("balance", f"{view.balance:f} {view.currency}"),
        ("  ledger", f"{view.ledger:f}"),
        ("  accrued", f"{view.accrued:f}"),
        ("flags", ", ".join(flags) or "none"),
        ("low below", _format_amount(view.limit)),
        ("own limit", _format_amount(view.threshold)),
        ("hours left", hours_left),
    ]


def _format_amount(amount: Decimal | None) -> str:
    return "-" if amount is None else f"{amount:f}"
