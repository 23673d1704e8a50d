"""The commands on an account as a whole: whether its HTTPS is suspended, and how that ends."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli.command import Context, command
from clients.cli.command_results import send_or_preview
from clients.cli.domains import After, Limit, describe_suspension, show_history
from clients.cli.preview import DryRun
from shared.contracts.accounts import AccountView, ResumeAccount, Resumption, SetResumption

account_app = typer.Typer(help="An account's HTTPS as a whole.", no_args_is_help=True)
_RESUMPTION_TEXTS = {"automatic": "by themselves", "by_hand": "by hand"}


@command(
    account_app,
    "show",
    examples=["edgetls account show", "edgetls account show --account acme --json"],
)
async def show_account(context: Context) -> None:
    """Show whether the account is suspended and why, and its domains by state."""
    async with context.platform() as platform:
        view = await platform.account(context.account)
    context.output.show_record(view, _account_fields(view))


@command(account_app, "resume", examples=["edgetls account resume --account acme"])
async def resume_account(context: Context, dry_run: DryRun = False) -> None:
    """End a suspension by hand. Refused while the balance is not above 0."""
    body = ResumeAccount(account=context.account)
    await send_or_preview(context, body, "resumed", dry_run=dry_run)


@command(account_app, "resumption", examples=["edgetls account resumption by_hand --account acme"])
async def set_resumption(
    context: Context,
    way: Annotated[
        Resumption,
        typer.Argument(
            help="automatic: once the balance is above 0; by_hand: with 'account resume'."
        ),
    ],
    dry_run: DryRun = False,
) -> None:
    """Set how the account's suspensions end."""
    body = SetResumption(account=context.account, resumption=way)
    done = f"suspensions end {_RESUMPTION_TEXTS[way]}"
    await send_or_preview(context, body, done, dry_run=dry_run)


@command(
    account_app,
    "history",
    examples=["edgetls account history", "edgetls account history --limit 10 --json"],
)
async def show_account_history(context: Context, limit: Limit = 50, after: After = None) -> None:
    """List the commands on the account's library, its roots and itself, and how they ended, newest
    first."""
    async with context.platform() as platform:
        history = await platform.history(None, context.account, before=after, limit=limit)
    show_history(context, history)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(account_app, name="account")


def _account_fields(view: AccountView) -> list[tuple[str, object]]:
    return [
        ("account", view.account),
        ("HTTPS", describe_suspension(view.suspension)),
        ("suspensions end", _RESUMPTION_TEXTS[view.resumption]),
        ("domains", view.domains),
        ("  enabled", view.enabled),
        ("  disabled", view.disabled),
        ("  suspended", view.suspended),
        ("expire within 30 days", view.expiring),
        ("expired", view.expired),
    ]
