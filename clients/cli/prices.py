"""The price book (operator) and the plans of an account."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.command import Link, command
from clients.platform.outcome_events import order
from clients.platform.plans import buy_plan, plans_of
from shared import catalogue
from shared.contracts.commands import ApplyPriceBook
from shared.contracts.findings import Code, findings_from
from shared.contracts.prices import (
    PreviewPriceBook,
    PriceBook,
    PriceBookEvent,
    PricePreview,
)
from shared.contracts.queries import Nothing
from shared.errors import Refused, SettingsError
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing

prices_app = typer.Typer(help="The price book: show, preview or apply one.", no_args_is_help=True)
plan_app = typer.Typer(help="Request plans: buy one, list them.", no_args_is_help=True)
FileArgument = Annotated[
    Path, typer.Argument(help="A price book in TOML or JSON, see docs/prices.md.", metavar="FILE")
]


@command(prices_app, "show", examples=["edgetls prices show", "edgetls prices show --json"])
async def prices_show(link: Link) -> None:
    """The prices and plans that are current."""
    async with link.reach("finance") as reach:
        view = await reach.ask(catalogue.RPC_PRICE_BOOK_SHOW, Nothing())
    link.out.data(view)
    link.out.line(f"price book {view.serial}: {view.book.title or 'without a title'}")
    link.out.table(
        ("price", "currency", "account", "from", "to", "per 10,000 requests"),
        [
            (
                p.id,
                p.currency,
                p.account or "everybody",
                _time(p.start),
                _time(p.end),
                ", ".join(
                    f"{t.price:f}" + (f" above {t.above:,}" if t.above else "") for t in p.tiers
                ),
            )
            for p in view.book.prices
        ],
    )
    if view.book.plans:
        link.out.table(
            ("plan", "requests", "days", "prices"),
            [
                (
                    o.id,
                    f"{o.requests:,}",
                    o.days,
                    ", ".join(f"{a:f} {c}" for c, a in sorted(o.prices.items())),
                )
                for o in view.book.plans
            ],
        )


@command(prices_app, "preview", examples=["edgetls prices preview prices.toml"])
async def prices_preview(link: Link, file: FileArgument) -> None:
    """What applying the file would change, and what the last 30 days would have cost; changes
    nothing."""
    book = read_book(file)
    async with link.reach("operator") as reach:
        preview = await reach.ask(catalogue.RPC_PRICE_BOOK_PREVIEW, PreviewPriceBook(book=book))
    link.out.data(preview)
    _show(link, preview)
    if preview.findings:
        raise Refused(preview.findings)


@command(
    prices_app,
    "apply",
    examples=["edgetls prices apply prices.toml", "edgetls prices apply prices.toml --yes"],
)
async def prices_apply(
    link: Link,
    file: FileArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Previews the file, asks, and makes it the price book. Hours that have begun keep their
    prices."""
    book = read_book(file)
    async with link.reach("operator") as reach:
        preview = await reach.ask(catalogue.RPC_PRICE_BOOK_PREVIEW, PreviewPriceBook(book=book))
        _show(link, preview)
        if preview.findings:
            raise Refused(preview.findings)
        if not (yes or link.out.as_json) and not typer.confirm("Apply it?"):
            raise SettingsError("nothing was applied")
        message = outgoing(
            catalogue.CMD_PRICE_BOOK_APPLY,
            ApplyPriceBook(base=preview.base, book=book),
            source="edgetls-operator",
            about="price_book",
            at=datetime.now(UTC),
            id=new_id(),
        )
        said = await order(
            reach,
            message,
            {
                catalogue.EVENT_PRICE_BOOK_APPLIED: PriceBookEvent,
                catalogue.EVENT_PRICE_BOOK_REFUSED: PriceBookEvent,
            },
        )
    link.out.data(said)
    if isinstance(said, PriceBookEvent) and said.change == "refused":
        raise Refused(findings_from(said.codes, said.messages, unknown=Code.PRICES_INVALID))
    if isinstance(said, PriceBookEvent):
        link.out.line(f"applied: price book {said.serial}")


@command(
    plan_app, "buy", examples=["edgetls plan buy pack-10m --account acme --reference order-4711"]
)
async def plan_buy(
    link: Link,
    plan: Annotated[str, typer.Argument(help="Its id in 'edgetls prices show'.")],
    currency: Annotated[str, typer.Option(help="The account's currency.")] = "CNY",
    reference: Annotated[
        str | None, typer.Option(help="Bought once per reference; default: a new one.")
    ] = None,
) -> None:
    """Buys a plan from the balance and waits until it is booked."""
    async with link.reach("platform") as reach:
        said = await buy_plan(
            reach, link.account, plan, currency, reference or new_id(), "edgetls-platform"
        )
    link.out.data(said)
    bought = said.plan
    link.out.line(
        f"bought {bought.plan} for {bought.amount:f} {bought.currency}: {bought.requests:,} "
        "requests until "
        f"{bought.end:%Y-%m-%d %H:%M} UTC (reference {bought.reference}); balance {said.balance:f}"
    )


@command(plan_app, "list", examples=["edgetls plan list --account acme"])
async def plan_list(link: Link) -> None:
    """The plans of the account, soonest to expire first: used first, and what is left at the end is
    forfeited."""
    async with link.reach("platform") as reach:
        found = await plans_of(reach, link.account)
    link.out.data(found)
    link.out.table(
        ("plan", "reference", "requests", "used", "left", "from", "to", "state"),
        [
            (
                p.plan,
                p.reference,
                f"{p.requests:,}",
                f"{p.used:,}",
                f"{p.left:,}",
                _time(p.start),
                _time(p.end),
                ("forfeited" if p.left else "used up") if p.ended else "running",
            )
            for p in found
        ],
        empty="no plans",
    )


def read_book(file: Path) -> PriceBook:
    """SettingsError when the file cannot be read; what it says is judged by the model and by
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


def _show(link: Link, preview: PricePreview) -> None:
    for line in preview.changes or ["nothing changes"]:
        link.out.line(line)
    if preview.effects:
        link.out.table(
            ("account", "requests in 30 days", "cost now", "cost then", "currency"),
            [
                (e.account, f"{e.requests:,}", f"{e.now:f}", f"{e.then:f}", e.currency)
                for e in preview.effects
            ],
        )


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


def add_to(app: typer.Typer) -> None:
    app.add_typer(prices_app, name="prices")
    app.add_typer(plan_app, name="plan")
