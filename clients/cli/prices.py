"""The commands on the price book (operator) and on the plans of an account."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.command import Context, command
from clients.cli.output import format_minute
from clients.platform.billing_commands import BillingCommands
from clients.platform.queries import PlatformQueries
from shared import catalogue
from shared.contracts.findings import Code, findings_from
from shared.contracts.prices import (
    PlanOffer,
    PlanView,
    PreviewPriceBook,
    Price,
    PriceBook,
    PricePreview,
)
from shared.contracts.queries import Nothing
from shared.errors import Refused, SettingsError
from shared.ids import new_id

prices_app = typer.Typer(help="The price book: show, preview or apply one.", no_args_is_help=True)
plan_app = typer.Typer(help="Request plans: buy one, list them.", no_args_is_help=True)
FileArgument = Annotated[
    Path, typer.Argument(help="A price book in TOML or JSON, see docs/prices.md.", metavar="FILE")
]


@command(prices_app, "show", examples=["edgetls prices show", "edgetls prices show --json"])
async def show_prices(context: Context) -> None:
    """Show the current prices and plans."""
    async with context.connection("finance") as connection:
        view = await connection.ask(catalogue.RPC_PRICE_BOOK_SHOW, Nothing())
    context.output.data(view)
    context.output.line(f"price book {view.serial}: {view.book.title or 'without a title'}")
    context.output.show_table(
        view.book.prices,
        {
            "price": lambda price: price.id,
            "currency": lambda price: price.currency,
            "account": lambda price: price.account or "everybody",
            "from": lambda price: format_minute(price.start),
            "to": lambda price: format_minute(price.end),
            "per 10,000 requests": _format_tiers,
        },
    )
    if view.book.plans:
        context.output.show_table(
            view.book.plans,
            {
                "plan": lambda offer: offer.id,
                "requests": lambda offer: f"{offer.requests:,}",
                "days": lambda offer: offer.days,
                "prices": _format_plan_prices,
            },
        )


@command(prices_app, "preview", examples=["edgetls prices preview prices.toml"])
async def preview_prices(context: Context, file: FileArgument) -> None:
    """Show what applying the file would change, and what the last 30 days would have cost; change
    nothing."""
    book = read_price_book(file)
    async with context.connection("operator") as connection:
        question = PreviewPriceBook(book=book)
        preview = await connection.ask(catalogue.RPC_PRICE_BOOK_PREVIEW, question)
    context.output.data(preview)
    _show_preview(context, preview)
    if preview.findings:
        raise Refused(preview.findings)


@command(
    prices_app,
    "apply",
    examples=["edgetls prices apply prices.toml", "edgetls prices apply prices.toml --yes"],
)
async def apply_prices(
    context: Context,
    file: FileArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Preview the file, ask, and make it the price book. Hours that have begun keep their
    prices."""
    book = read_price_book(file)
    async with context.connection("operator") as connection:
        question = PreviewPriceBook(book=book)
        preview = await connection.ask(catalogue.RPC_PRICE_BOOK_PREVIEW, question)
        _show_preview(context, preview)
        if preview.findings:
            raise Refused(preview.findings)
        if not (yes or context.output.as_json) and not typer.confirm("Apply it?"):
            raise SettingsError("nothing was applied")
        billing = BillingCommands(connection, "edgetls-operator")
        # Billing refuses when another book was applied since the preview: ``base`` is its serial.
        event = await billing.apply_price_book(book, preview.base)
    context.output.data(event)
    if event.change == "refused":
        raise Refused(findings_from(event.codes, event.messages, unknown=Code.PRICES_INVALID))
    context.output.line(f"applied: price book {event.serial}")


@command(
    plan_app, "buy", examples=["edgetls plan buy pack-10m --account acme --reference order-4711"]
)
async def buy_plan(
    context: Context,
    plan: Annotated[str, typer.Argument(help="Its id in 'edgetls prices show'.")],
    currency: Annotated[str, typer.Option(help="The account's currency.")] = "CNY",
    reference: Annotated[
        str | None, typer.Option(help="Bought once per reference; default: a new one.")
    ] = None,
) -> None:
    """Buy a plan from the balance and wait until it is booked."""
    async with context.connection("platform") as connection:
        billing = BillingCommands(connection, "edgetls-platform")
        event = await billing.buy_plan(context.account, plan, currency, reference or new_id())
    context.output.data(event)
    bought = event.plan
    context.output.line(
        f"bought {bought.plan} for {bought.amount:f} {bought.currency}: {bought.requests:,} "
        f"requests until {bought.end:%Y-%m-%d %H:%M} UTC (reference {bought.reference}); "
        f"balance {event.balance:f}"
    )


@command(plan_app, "list", examples=["edgetls plan list --account acme"])
async def list_plans(context: Context) -> None:
    """List the plans of the account, the first to expire first. That one is used first; what is
    left of a plan at its end is forfeited."""
    async with context.connection("platform") as connection:
        plans = await PlatformQueries(connection).plans(context.account)
    context.output.show_list(
        plans,
        {
            "plan": lambda plan: plan.plan,
            "reference": lambda plan: plan.reference,
            "requests": lambda plan: f"{plan.requests:,}",
            "used": lambda plan: f"{plan.used:,}",
            "left": lambda plan: f"{plan.left:,}",
            "from": lambda plan: format_minute(plan.start),
            "to": lambda plan: format_minute(plan.end),
            "state": _format_plan_state,
        },
        empty="no plans",
    )


def read_price_book(file: Path) -> PriceBook:
    """Read a price book in TOML or JSON.

    SettingsError when the file cannot be read. Its content is judged by the model and by
    billing."""
    try:
        text = file.read_text()
        if file.suffix == ".json":
            return PriceBook.model_validate_json(text)
        return PriceBook.model_validate(tomllib.loads(text, parse_float=Decimal))
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not TOML: {error}") from None


def _show_preview(context: Context, preview: PricePreview) -> None:
    for line in preview.changes or ["nothing changes"]:
        context.output.line(line)
    if preview.effects:
        context.output.show_table(
            preview.effects,
            {
                "account": lambda effect: effect.account,
                "requests in 30 days": lambda effect: f"{effect.requests:,}",
                "cost now": lambda effect: f"{effect.now:f}",
                "cost then": lambda effect: f"{effect.then:f}",
                "currency": lambda effect: effect.currency,
            },
        )


def _format_tiers(price: Price) -> str:
    tiers = []
    for tier in price.tiers:
        above = f" above {tier.above:,}" if tier.above else ""
        tiers.append(f"{tier.price:f}{above}")
    return ", ".join(tiers)


def _format_plan_prices(offer: PlanOffer) -> str:
    return ", ".join(f"{amount:f} {currency}" for currency, amount in sorted(offer.prices.items()))


def _format_plan_state(plan: PlanView) -> str:
    if not plan.ended:
        return "running"
    return "forfeited" if plan.left else "used up"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(prices_app, name="prices")
    app.add_typer(plan_app, name="plan")
