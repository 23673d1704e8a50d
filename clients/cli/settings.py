"""A domain's settings: redirect, HTTP/2, TLS versions, HSTS, origin and trust."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, cast

import typer

from clients.cli.command import Link, command
from clients.cli.domains import DomainArgument, TrustOption, report
from clients.cli.preview import DryRun, show_preview
from clients.platform.client import settings_change
from shared.contracts.certificates import RollbackCertificate
from shared.contracts.commands import HstsChange
from shared.contracts.domains import RedirectMode, TlsVersion
from shared.errors import SettingsError


class StatusOption(StrEnum):
    MOVED = "301"
    FOUND = "302"
    TEMPORARY = "307"
    PERMANENT = "308"


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


class TlsOption(StrEnum):
    V10 = "1.0"
    V11 = "1.1"
    V12 = "1.2"
    V13 = "1.3"


async def settings(
    link: Link,
    domain: DomainArgument,
    redirect: Annotated[RedirectMode | None, typer.Option(help="Forcible redirect.")] = None,
    status: Annotated[
        StatusOption | None, typer.Option(help="Status of the redirect; 307 and 308 keep POST.")
    ] = None,
    http2: Annotated[Switch | None, typer.Option("--http2", help="HTTP/2.")] = None,
    tls_min: Annotated[TlsOption | None, typer.Option(help="Lowest TLS version.")] = None,
    tls_max: Annotated[
        TlsOption | None, typer.Option(help="Highest TLS version; the range is contiguous.")
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
        TrustOption | None, typer.Option(help="Roots to judge the next certificate by.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every node has it.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Changes what is named; the rest stays. Origin and trust may change while HTTPS is off,
    too."""
    code = None if status is None else cast(Literal[301, 302, 307, 308], int(status.value))
    header = _hsts(hsts, hsts_subdomains, hsts_preload)
    body = settings_change(
        domain,
        link.account,
        redirect=redirect,
        redirect_status=code,
        http2=None if http2 is None else http2 is Switch.ON,
        tls_min=_tls(tls_min),
        tls_max=_tls(tls_max),
        hsts=header,
        origin=origin,
        trust=None if trust is None else trust.value,
    )
    if not body.model_dump(exclude={"domain", "account"}, exclude_none=True):
        raise SettingsError(
            "nothing to change: name --redirect, --status, --http2, --tls-min, --tls-max, "
            "--hsts, --hsts-subdomains, "
            "--hsts-preload, --origin or --trust"
        )
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, body)
            return
        await report(link, platform, await platform.change(body), "changed", wait=wait)


async def rollback(
    link: Link,
    domain: DomainArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every node serves it.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Back to the certificate before; the two swap places. An expired one is refused."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(
                link, platform, RollbackCertificate(domain=domain, account=link.account)
            )
            return
        await report(
            link, platform, await platform.rollback(domain, link.account), "rolled back", wait=wait
        )


def add_to(app: typer.Typer) -> None:
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
    )(settings)
    command(
        app,
        "rollback",
        examples=[
            "edgetls rollback www.example.com --wait",
            "edgetls rollback www.example.com --dry-run",
        ],
    )(rollback)


def _tls(option: TlsOption | None) -> TlsVersion | None:
    return None if option is None else option.value


def _hsts(
    text: str | None, subdomains: bool | None, preload: bool | None
) -> HstsChange | Literal["off"] | None:
    flags = (subdomains, preload) != (None, None)
    if text == "off":
        if flags:
            raise SettingsError(
                "--hsts off goes without --hsts-subdomains and --hsts-preload: they end with it"
            )
        return "off"
    if text is not None and not (text.isascii() and text.isdecimal()):
        raise SettingsError("--hsts is a number of seconds, or off")
    if text is None and not flags:
        return None
    return HstsChange(
        max_age=None if text is None else int(text), include_subdomains=subdomains, preload=preload
    )
