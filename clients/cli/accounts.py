"""An account as a whole: whether its HTTPS is suspended and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from clients.cli.command import Link, command
from clients.cli.domains import After, Limit, report, show_history, why
from clients.cli.preview import DryRun, show_preview
from shared.contracts.accounts import AccountView, ResumeAccount, SetResumption

account_app = typer.Typer(help="An account's HTTPS as a whole.", no_args_is_help=True)


class Way(StrEnum):
    AUTOMATIC = "automatic"
    BY_HAND = "by_hand"


@command(
    account_app,
    "show",
    examples=["edgetls account show", "edgetls account show --account acme --json"],
)
async def show(link: Link) -> None:
    """Whether the account is suspended and why, and its domains by state."""
    async with link.platform() as platform:
        view = await platform.account(link.account)
    link.out.data(view)
    link.out.table(("", ""), _rows(view))


@command(account_app, "resume", examples=["edgetls account resume --account acme"])
async def resume(link: Link, dry_run: DryRun = False) -> None:
    """Ends a suspension by hand; refused while the balance is not above 0."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, ResumeAccount(account=link.account))
            return
        await report(link, platform, await platform.resume_account(link.account), "resumed")


@command(account_app, "resumption", examples=["edgetls account resumption by_hand --account acme"])
async def resumption(
    link: Link,
    way: Annotated[
        Way,
        typer.Argument(
            help="automatic: once the balance is above 0; by_hand: with 'account resume'."
        ),
    ],
    dry_run: DryRun = False,
) -> None:
    """Sets how the account's suspensions end."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(
                link, platform, SetResumption(account=link.account, resumption=way.value)
            )
            return
        ends = "by themselves" if way is Way.AUTOMATIC else "by hand"
        await report(
            link,
            platform,
            await platform.set_resumption(link.account, way.value),
            f"suspensions end {ends}",
        )


@command(
    account_app,
    "history",
    examples=["edgetls account history", "edgetls account history --limit 10 --json"],
)
async def history(link: Link, limit: Limit = 50, after: After = None) -> None:
    """Every command on the account's library, its roots and itself, and how it ended, newest
    first."""
    async with link.platform() as platform:
        found = await platform.history(None, link.account, before=after, limit=limit)
    show_history(link, found)


def add_to(app: typer.Typer) -> None:
    app.add_typer(account_app, name="account")


def _rows(view: AccountView) -> list[tuple[str, object]]:
    return [
        ("account", view.account),
        ("HTTPS", why(view.suspension)),
        ("suspensions end", "by themselves" if view.resumption == "automatic" else "by hand"),
        ("domains", view.domains),
        ("  enabled", view.enabled),
        ("  disabled", view.disabled),
        ("  suspended", view.suspended),
        ("expire within 30 days", view.expiring),
        ("expired", view.expired),
    ]
