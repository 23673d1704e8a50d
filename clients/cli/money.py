"""Usage, charges and balances: what finance reads, and credits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from clients.cli import completeness
from clients.cli.command import Link, command, group
from clients.cli.files import parse_time
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.ids import new_id

balance_app = typer.Typer(help="Show an account's balance, credit it, set its low-balance limit.", no_args_is_help=True)
hour_app = typer.Typer(help="Close hours: post what was used as charges.", no_args_is_help=True)
CurrencyOption = Annotated[str, typer.Option(help="The account's currency: CNY or USD.")]
FromOption = Annotated[str | None, typer.Option("--from", help="Inclusive; RFC 3339 or a date, UTC.")]
ToOption = Annotated[str | None, typer.Option("--to", help="Exclusive; default: the end of this hour.")]


class ByOption(StrEnum):
    ACCOUNT = "account"
    DOMAIN = "domain"
    NODE = "node"


class GranularityOption(StrEnum):
    FIVE_MINUTES = "5m"
    HOUR = "hour"
    DAY = "day"


async def usage(
    link: Link,
    start: FromOption = None,
    end: ToOption = None,
    by: Annotated[ByOption, typer.Option(help="What a row is of.")] = ByOption.DOMAIN,
    granularity: Annotated[GranularityOption, typer.Option(help="How long a row is.")] = GranularityOption.HOUR,
    domain: Annotated[str | None, typer.Option(help="Of this domain alone.")] = None,
    node: Annotated[str | None, typer.Option(help="Of this node alone.")] = None,
) -> None:
    """HTTPS and HTTP requests and bytes; only HTTPS requests are charged. Default: the last 24 hours."""
    since, until = period(start, end, timedelta(hours=24))
    async with link.platform() as platform:
        rows = await platform.usage(
            since, until, granularity=granularity.value, by=by.value,
            account=link.account, domain=domain, node=node,
        )
    link.out.data(rows)
    link.out.table(
        ("from", by.value, "https requests", "https bytes", "http requests", "http bytes"),
        [
            (f"{r.start:%Y-%m-%d %H:%M}", r.key, r.https_requests, r.https_bytes, r.http_requests, r.http_bytes)
            for r in rows
        ],
        empty="no usage in this period",
    )
    if rows:
        link.out.line(f"{sum(r.https_requests for r in rows)} HTTPS requests")


async def charges(link: Link, start: FromOption = None, end: ToOption = None) -> None:
    """The charges of closed hours. Default: the last 31 days."""
    since, until = period(start, end, timedelta(days=31))
    async with link.platform() as platform:
        rows = await platform.charges(link.account, since, until)
    link.out.data(rows)
    link.out.table(
        ("hour", "kind", "requests", "price per 10,000", "amount", "currency"),
        [(f"{r.hour:%Y-%m-%d %H:%M}", r.kind, r.requests, f"{r.price:f}", f"{r.amount:f}", r.currency) for r in rows],
        empty="no charges in this period",
    )


@command(balance_app, "show", examples=["edgetls balance show", "edgetls balance show --account acme --json"])
async def balance_show(link: Link) -> None:
    """The balance, what is accrued, and whether it is low or depleted."""
    async with link.platform() as platform:
        view = await platform.balance(link.account)
    link.out.data(view)
    link.out.table(("", ""), _balance_rows(view))


@command(balance_app, "credit", examples=["edgetls balance credit 100.00 --currency CNY --reference payment-4711"])
async def balance_credit(
    link: Link,
    amount: Annotated[str, typer.Argument(help="Above 0, as a decimal number.")],
    currency: CurrencyOption = "CNY",
    reference: Annotated[str | None, typer.Option(help="Booked once per reference; default: a new one.")] = None,
) -> None:
    """Adds money to the account and waits until it is booked."""
    async with link.platform() as platform:
        event = await platform.credit(link.account, reference or new_id(), amount, currency)
    _refuse_credit(event)
    link.out.data(event)
    booked = f"credited {amount} {currency} (reference {event.reference})"
    link.out.line(f"{booked}: balance {event.balance:f} {event.currency}")


@command(balance_app, "threshold", examples=[
    "edgetls balance threshold 50 --currency CNY", "edgetls balance threshold off --currency CNY",
])
async def balance_threshold(
    link: Link,
    threshold: Annotated[str, typer.Argument(help="Flag the balance as low below this amount; 'off' for none.")],
    currency: CurrencyOption = "CNY",
) -> None:
    """Sets the account's own low-balance limit."""
    async with link.platform() as platform:
        command_id = await platform.threshold(link.account, None if threshold == "off" else threshold, currency)
    link.out.data({"command_id": command_id})
    link.out.line(f"ordered: the low-balance limit of {link.account} is {threshold}")


@command(hour_app, "close", examples=["edgetls hour close", "edgetls hour close --until 2026-05-01T13:00:00Z"])
async def hour_close(
    link: Link,
    until: Annotated[str | None, typer.Option(help="Hours that end at or before it; default: now.")] = None,
) -> None:
    """Posts the usage of the hours up to a time as charges (operator)."""
    moment = parse_time(until) if until else datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    async with link.platform("operator") as platform:
        command_id = await platform.close_hour(moment)
    link.out.data({"command_id": command_id, "until": moment.isoformat()})
    link.out.line(f"ordered: hours until {moment:%Y-%m-%d %H:%M} UTC are closed")


def add_to(app: typer.Typer) -> None:
    under_usage = group(app, "usage", usage, examples=[
        "edgetls usage --by node --granularity 5m", "edgetls usage --from 2026-05-01 --to 2026-06-01 --granularity day",
    ])
    completeness.add_to(app, under_usage)
    command(app, "charges", examples=["edgetls charges --from 2026-05-01 --json"])(charges)
    app.add_typer(balance_app, name="balance")
    app.add_typer(hour_app, name="hour")


def period(start: str | None, end: str | None, default: timedelta) -> tuple[datetime, datetime]:
    """Whole hours: the default ends with the running one."""
    until = parse_time(end) if end else (
        datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    )
    return (parse_time(start) if start else until - default), until


def _refuse_credit(event: BalanceEvent) -> None:
    if event.change == "refused":
        known = {code.value: code for code in Code}
        raise Refused([finding(known[code]) for code in event.codes if code in known])


def _balance_rows(view: BalanceView) -> list[tuple[str, object]]:
    flags = [name for name, on in (("low", view.low), ("depleted", view.depleted)) if on]
    return [
        ("account", view.account), ("balance", f"{view.balance:f} {view.currency}"), ("  ledger", f"{view.ledger:f}"),
        ("  accrued", f"{view.accrued:f}"), ("flags", ", ".join(flags) or "none"),
        ("low below", "-" if view.limit is None else f"{view.limit:f}"),
        ("own limit", "-" if view.threshold is None else f"{view.threshold:f}"),
        ("hours left", "-" if view.hours_left is None else f"{view.hours_left:.1f}"),
    ]
