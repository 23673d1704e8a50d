"""An account as a whole: whether its HTTPS is suspended and why."""

from __future__ import annotations

import typer

from clients.cli.command import Link, command
from shared.contracts.accounts import AccountView, Suspension

account_app = typer.Typer(help="An account's HTTPS as a whole.", no_args_is_help=True)


@command(account_app, "show", examples=["edgetls account show", "edgetls account show --account acme --json"])
async def show(link: Link) -> None:
    """Whether the account is suspended and why, and its domains by state."""
    async with link.platform() as platform:
        view = await platform.account(link.account)
    link.out.data(view)
    link.out.table(("", ""), _rows(view))


def add_to(app: typer.Typer) -> None:
    app.add_typer(account_app, name="account")


def why(suspension: Suspension | None) -> str:
    """A sentence: what holds, and what ends it."""
    if suspension is None:
        return "not suspended"
    ends = "when the balance is above 0 again"
    if suspension.resumes == "by_hand":
        ends = "by hand" + (", the balance is above 0" if suspension.settled else ", once the balance is above 0")
    return f"suspended since {suspension.since:%Y-%m-%d %H:%M} UTC: {suspension.reason}; ends {ends}"


def _rows(view: AccountView) -> list[tuple[str, object]]:
    return [
        ("account", view.account), ("HTTPS", why(view.suspension)),
        ("suspensions end", "by themselves" if view.resumption == "automatic" else "by hand"),
        ("domains", view.domains), ("  enabled", view.enabled), ("  disabled", view.disabled),
        ("  suspended", view.suspended), ("end within 30 days", view.expiring), ("  ended already", view.expired),
    ]
