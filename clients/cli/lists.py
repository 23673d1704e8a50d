"""The commands that search domains: ``domain list`` and ``cert fits``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer

from clients.cli.certificates import NameArgument, cert_app
from clients.cli.command import Context, command
from clients.cli.domains import domain_app
from clients.cli.output import format_date
from clients.platform.queries import DomainFilters
from shared.contracts.domains import (
    CertificateStatus,
    CertificateView,
    DomainState,
    DomainView,
    ServiceType,
)


async def list_domains(
    context: Context,
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
        Literal["custom", "stored"] | None, typer.Option(help="Where the certificate comes from.")
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
    """List the account's domains that meet all of the given conditions."""
    account = None if every_account else context.account
    if served_by is not None:
        # As other tools print a fingerprint: in capitals, with colons.
        served_by = served_by.replace(":", "").lower()
    filters: DomainFilters = {
        "state": status,
        "source": source,
        "service_type": service_type,
        "expires_within": expires_within,
        "prefix": prefix,
        "suffix": suffix,
        "certificate": certificate,
        "served_by": served_by,
        "covered_by": covered_by or None,
        "order": "expiry" if by_expiry else "name",
    }
    following = None
    async with context.platform() as platform:
        # With --limit or --after programs get one page with its ``next``, otherwise the whole list.
        if limit is None and after is None:
            views = [view async for view in platform.all_domains(account, **filters)]
            context.output.data(views)
        else:
            page = await platform.list_domains(
                account, after=after or "", limit=limit or 100, **filters
            )
            context.output.data(page)
            views = page.domains
            following = page.next
    show_domains(context, views, every_account=every_account)
    if following:
        context.output.note(f"more: --after {following!r}")


async def list_fitting_domains(context: Context, name: NameArgument) -> None:
    """List the account's domains that a stored certificate could serve."""
    async with context.platform() as platform:
        views = [view async for view in platform.certificate_fits(name, context.account)]
    context.output.data(views)
    show_domains(context, views)


def show_domains(
    context: Context, views: Sequence[DomainView], *, every_account: bool = False
) -> None:
    """Print a table of domains, with their accounts when they belong to several."""
    columns: dict[str, Callable[[DomainView], object]] = {
        "domain": lambda view: view.domain,
        "state": lambda view: view.state,
        "type": lambda view: view.service_type,
        "certificate until": _format_expiry,
        "days left": _format_days_left,
        "source": _format_source,
        "revision": lambda view: view.revision,
        "live": lambda view: view.live_revision or "-",
    }
    empty = f"no such domains in the account {context.account}"
    if every_account:
        columns["account"] = lambda view: view.account
        empty = "no such domains"
    context.output.show_table(views, columns, empty=empty)


def add_to(_: typer.Typer) -> None:
    """Register the commands beside the others on domains and certificates."""
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
    command(cert_app, "fits", examples=["edgetls cert fits wild-2026"])(list_fitting_domains)


def _first_to_expire(view: DomainView) -> CertificateView | None:
    # A domain may serve an RSA and an ECDSA pair; the first to expire is the one to act on.
    return min(view.certificates, key=lambda one: one.not_after, default=None)


def _format_expiry(view: DomainView) -> str:
    certificate = _first_to_expire(view)
    return "-" if certificate is None else format_date(certificate.not_after)


def _format_days_left(view: DomainView) -> str:
    certificate = _first_to_expire(view)
    if certificate is None:
        return "-"
    if certificate.status == "expired":
        return "ended"
    return str(certificate.days_left)


def _format_source(view: DomainView) -> str:
    certificate = _first_to_expire(view)
    return "-" if certificate is None else certificate.source
