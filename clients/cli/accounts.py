"""An account as a whole: whether its HTTPS is suspended and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from clients.cli.command import Link, command
from clients.cli.domains import report, why
from shared.contracts.accounts import AccountView

account_app = typer.Typer(help="An account's HTTPS as a whole.", no_args_is_help=True)


class Way(StrEnum):
    AUTOMATIC = "automatic"
    BY_HAND = "by_hand"


@command(account_app, "show", examples=["edgetls account show", "edgetls account show --account acme --json"])
async def show(link: Link) -> None:
    """Whether the account is suspended and why, and its domains by state."""
    async with link.platform() as platform:
        view = await platform.account(link.account)
    link.out.data(view)
    link.out.table(("", ""), _rows(view))


@command(account_app, "resume", examples=["edgetls account resume --account acme"])
async def resume(link: Link) -> None:
    """Ends a suspension by hand; refused while the balance is not above 0."""
    async with link.platform() as platform:
        await report(link, platform, await platform.resume_account(link.account), "resumed")


@command(account_app, "resumption", examples=["edgetls account resumption by_hand --account acme"])
async def resumption(
    link: Link,
    way: Annotated[Way, typer.Argument(help="automatic: once the balance is above 0; by_hand: with 'account resume'.")],
) -> None:
    """Sets how the account's suspensions end."""
    async with link.platform() as platform:
        await report(link, platform, await platform.set_resumption(link.account, way.value), f"resumed {way.value}")


def add_to(app: typer.Typer) -> None:
    app.add_typer(account_app, name="account")


def _rows(view: AccountView) -> list[tuple[str, object]]:
    return [
        ("account", view.account), ("HTTPS", why(view.suspension)),
        ("suspensions end", "by themselves" if view.resumption == "automatic" else "by hand"),
        ("domains", view.domains), ("  enabled", view.enabled), ("  disabled", view.disabled),
        ("  suspended", view.suspended), ("expire within 30 days", view.expiring),
        ("expired", view.expired),
    ]
