"""The commands on a domain's settings (redirect, HTTP/2, TLS versions, HSTS, origin, trust) and
rollback."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from clients.cli.command import Context, command
from clients.cli.command_results import send_or_preview
from clients.cli.domains import DomainArgument, WaitOption
from clients.cli.preview import DryRun
from clients.platform.settings_change import SettingsFields, build_settings_change
from shared.contracts.certificates import RollbackCertificate, Trust
from shared.contracts.commands import HstsChange
from shared.contracts.domains import RedirectMode, TlsVersion
from shared.errors import SettingsError


async def change_settings(
    context: Context,
    domain: DomainArgument,
    redirect: Annotated[RedirectMode | None, typer.Option(help="Forcible redirect.")] = None,
    status: Annotated[
        Literal["301", "302", "307", "308"] | None,
        typer.Option(help="Status of the redirect; 307 and 308 keep POST."),
    ] = None,
    http2: Annotated[Literal["on", "off"] | None, typer.Option("--http2", help="HTTP/2.")] = None,
    tls_min: Annotated[TlsVersion | None, typer.Option(help="Lowest TLS version.")] = None,
    tls_max: Annotated[
        TlsVersion | None, typer.Option(help="Highest TLS version; the range is contiguous.")
    ] = None,
    hsts: Annotated[
        str | None, typer.Option(help="max-age in seconds (0 to 63072000), or off.")
    ] = None,
    hsts_subdomains: Annotated[
        bool | None,
        typer.Option(
            "--hsts-subdomains/--no-hsts-subdomains",
            help="HSTS for subdomains too.",
            show_default=False,
        ),
    ] = None,
    hsts_preload: Annotated[
        bool | None,
        typer.Option(
            "--hsts-preload/--no-hsts-preload",
            help="Add the HSTS preload directive.",
            show_default=False,
        ),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="Where nodes fetch content: http(s)://host[:port].")
    ] = None,
    trust: Annotated[
        Trust | None, typer.Option(help="Roots to judge the next certificate by.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every node has it.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Change the named settings; the others stay as they are. Origin and trust may change while
    HTTPS is off, too."""
    fields: SettingsFields = {
        "redirect": redirect,
        "tls_min": tls_min,
        "tls_max": tls_max,
        "hsts": _parse_hsts(hsts, hsts_subdomains, hsts_preload),
        "origin": origin,
        "trust": trust,
    }
    if status is not None:
        fields["redirect_status"] = cast(Literal[301, 302, 307, 308], int(status))
    if http2 is not None:
        fields["http2"] = http2 == "on"
    body = build_settings_change(domain, context.account, fields)
    if not body.model_dump(exclude={"domain", "account"}, exclude_none=True):
        raise SettingsError(
            "nothing to change: name --redirect, --status, --http2, --tls-min, --tls-max, "
            "--hsts, --hsts-subdomains, --hsts-preload, --origin or --trust"
        )
    await send_or_preview(context, body, "changed", dry_run=dry_run, wait=wait)


async def roll_back(
    context: Context, domain: DomainArgument, wait: WaitOption = False, dry_run: DryRun = False
) -> None:
    """Go back to the previous certificate; the two swap places. An expired one is refused."""
    body = RollbackCertificate(domain=domain, account=context.account)
    await send_or_preview(context, body, "rolled back", dry_run=dry_run, wait=wait)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(
        app,
        "settings",
        examples=[
            "edgetls settings www.example.com --redirect to_https --status 308",
            "edgetls settings www.example.com --http2 on --tls-min 1.2 --tls-max 1.3 --wait",
            "edgetls settings www.example.com --hsts 31536000 --hsts-subdomains",
            "edgetls settings www.example.com --no-hsts-subdomains",
            "edgetls settings www.example.com --hsts off --dry-run",
            "edgetls settings www.example.com --origin https://origin.example.com",
        ],
    )(change_settings)
    command(
        app,
        "rollback",
        examples=[
            "edgetls rollback www.example.com --wait",
            "edgetls rollback www.example.com --dry-run",
        ],
    )(roll_back)


def _parse_hsts(
    text: str | None, subdomains: bool | None, preload: bool | None
) -> HstsChange | Literal["off"] | None:
    # None stays as it is, so --hsts-subdomains alone changes nothing of max-age.
    has_flags = subdomains is not None or preload is not None
    if text == "off":
        if has_flags:
            raise SettingsError(
                "--hsts off goes without --hsts-subdomains and --hsts-preload: they end with it"
            )
        return "off"
    if text is None and not has_flags:
        return None
    max_age = None
    if text is not None:
        if not (text.isascii() and text.isdecimal()):
            raise SettingsError("--hsts is a number of seconds, or off")
        max_age = int(text)
    return HstsChange(max_age=max_age, include_subdomains=subdomains, preload=preload)
