"""Lists and search: domains by what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from clients.cli.certificates import NameArgument, cert_app
from clients.cli.command import Link, command
from clients.cli.domains import domain_app
from clients.platform.queries import DomainFilters
from shared.contracts.domains import (
    CertificateStatus,
    CertificateView,
    DomainState,
    DomainView,
    ServiceType,
)


class SourceOption(StrEnum):
    CUSTOM = "custom"
    STORED = "stored"


async def list_domains(
    link: Link,
    status: Annotated[DomainState | None, typer.Option(help="Only domains in this state.")] = None,
    certificate: Annotated[
        CertificateStatus | None, typer.Option(help="Only certificates with this status.")
    ] = None,
    expires_within: Annotated[
        int | None,
        typer.Option(
            min=0, help="Only certificates that expire within this many days; 0: expired ones."
        ),
    ] = None,
    source: Annotated[
        SourceOption | None, typer.Option(help="Where the certificate comes from.")
    ] = None,
    service_type: Annotated[
        ServiceType | None, typer.Option("--type", help="Only this service type.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Only names with this beginning.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Only names with this ending.")] = None,
    served_by: Annotated[
        str | None, typer.Option(help="Only those served by the certificate with this fingerprint.")
    ] = None,
    covered_by: Annotated[
        list[str] | None,
        typer.Option(
            help="Only domains that a certificate with this DNS name could serve; may be repeated."
        ),
    ] = None,
    by_expiry: Annotated[
        bool, typer.Option("--by-expiry", help="Sort by expiry, the earliest first.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=500, help="Page size; all of them if omitted.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Where the page begins: the `next` of the page before.")
    ] = None,
    every_account: Annotated[
        bool, typer.Option("--all-accounts", help="Of every account, not of --account alone.")
    ] = False,
) -> None:
    """The account's domains, by what is asked of them: all that is named must hold."""
    account = None if every_account else link.account
    filters: DomainFilters = {
        "state": status.value if status else None,
        "source": source.value if source else None,
        "service_type": service_type.value if service_type else None,
        "expires_within": expires_within,
        "prefix": prefix,
        "suffix": suffix,
        "certificate": certificate,
        "served_by": _fingerprint(served_by),
        "covered_by": covered_by or None,
        "order": "expiry" if by_expiry else "name",
    }
    async with link.platform() as platform:
        following = None
        if limit is None and after is None:
            views = [view async for view in platform.all_domains(account, **filters)]
            link.out.data(views)
        else:
            page = await platform.list_domains(
                account, after=after or "", limit=limit or 100, **filters
            )
            link.out.data(page)
            views, following = page.domains, page.next
    show_domains(link, views, every_account=every_account)
    if following:
        link.out.note(f"more: --after {following!r}")


async def fits(link: Link, name: NameArgument) -> None:
    """The account's domains that a stored certificate could serve."""
    async with link.platform() as platform:
        views = [view async for view in platform.certificate_fits(name, link.account)]
    link.out.data(views)
    show_domains(link, views)


def show_domains(link: Link, views: Sequence[DomainView], *, every_account: bool = False) -> None:
    columns = (
        "domain",
        "state",
        "type",
        "certificate until",
        "days left",
        "source",
        "revision",
        "live",
    )
    link.out.table(
        (*columns, "account") if every_account else columns,
        [(*_row(view), view.account) if every_account else _row(view) for view in views],
        empty="no such domains"
        if every_account
        else f"no such domains in the account {link.account}",
    )


def add_to(_: typer.Typer) -> None:
    """Beside the other commands on domains and certificates."""
    command(
        domain_app,
        "list",
        examples=[
            "edgetls domain list",
            "edgetls domain list --expires-within 30 --by-expiry",
            "edgetls domain list --status enabled --source stored --suffix .example.com",
            "edgetls domain list --covered-by '*.example.com' --covered-by example.com",
            "edgetls domain list --limit 500 --after www.example.com --json",
            "edgetls domain list --all-accounts --certificate expired",
        ],
    )(list_domains)
    command(cert_app, "fits", examples=["edgetls cert fits wild-2026"])(fits)


def _fingerprint(text: str | None) -> str | None:
    """As other tools write it, too: in capitals, with colons."""
    return None if text is None else text.replace(":", "").lower()


def _row(view: DomainView) -> tuple[object, ...]:
    first = min(view.certificates, key=lambda one: one.not_after, default=None)
    return (
        view.domain,
        view.state,
        view.service_type,
        *_ends(first),
        view.revision,
        view.live_revision or "-",
    )


def _ends(certificate: CertificateView | None) -> tuple[object, object, object]:
    if certificate is None:
        return "-", "-", "-"
    left = "ended" if certificate.status == "expired" else certificate.days_left
    return f"{certificate.not_after:%Y-%m-%d}", left, certificate.source
