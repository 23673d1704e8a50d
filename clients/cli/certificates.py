"""The account's certificate library and its own roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.command import Link, command
from clients.cli.domains import (
    TrustOption,
    certificate_rows,
    findings_in_full,
    live_line,
    refuse,
    report,
    result_of,
    teller,
    told_anyway,
)
from clients.cli.files import read_pairs, read_text
from clients.cli.preview import DryRun, show_preview
from clients.platform import Platform, findings_of
from shared.contracts.certificates import (
    CommandResult,
    DeleteCertificate,
    DeployCertificate,
    SetRoots,
    StoredView,
    Use,
)
from shared.contracts.domains import Outcome
from shared.errors import Refused, SettingsError

cert_app = typer.Typer(help="The account's certificate library.", no_args_is_help=True)
roots_app = typer.Typer(
    help="The account's own roots, for domains with private trust.", no_args_is_help=True
)
NameArgument = Annotated[
    str, typer.Argument(help="Letters, digits, _ - and . (128 at most).", metavar="NAME")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until every node serves it.")]


@command(
    cert_app,
    "store",
    examples=[
        "edgetls cert store wild-2026 --cert chain.pem --key key.pem",
        "edgetls cert store wild-2026 --cert new.pem --key new.key --overwrite --wait",
    ],
)
async def store(
    link: Link,
    name: NameArgument,
    cert: Annotated[
        list[Path], typer.Option("--cert", help="PEM chain, leaf first; twice for RSA and ECDSA.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="Its private key in PEM; sealed before it is sent.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace it; domains that use it follow.")
    ] = False,
    trust: Annotated[TrustOption, typer.Option(help="Roots to judge it by.")] = TrustOption.PUBLIC,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what would be normalised.")
    ] = False,
    wait: Wait = False,
) -> None:
    """Keeps a pair under a name, judged once. With --overwrite every domain that uses the name
    follows."""
    (chain, private), *more = read_pairs(cert, key)
    async with link.platform() as platform:
        ordered = await platform.store(
            name,
            link.account,
            chain,
            private,
            more=more,
            overwrite=overwrite,
            strict=strict,
            trust=trust.value,
        )
        own = await platform.settled(ordered.command_id)
        findings = await findings_in_full(platform, own)
        refuse(own, findings)
        followed = [
            one for one in await platform.results(ordered.command_id) if one.domain is not None
        ]
        link.out.line(
            f"{name}: {'stored' if own.outcome is Outcome.APPLIED else own.outcome.value}"
        )
        link.out.findings(findings)
        result: dict[str, Any] = {**result_of(own, findings), "name": name, "followed": followed}
        await _tell(link, platform, followed, result, wait)


@command(
    cert_app,
    "deploy",
    examples=[
        "edgetls cert deploy wild-2026 a.example.com b.example.com --wait",
        "edgetls cert deploy wild-2026 a.example.com --dry-run",
    ],
)
async def deploy(
    link: Link,
    name: NameArgument,
    domains: Annotated[
        list[str], typer.Argument(help="One to fifty domains.", metavar="DOMAIN...")
    ],
    wait: Wait = False,
    dry_run: DryRun = False,
) -> None:
    """Serves a stored certificate on up to fifty domains at once, each with its own result."""
    async with link.platform() as platform:
        if dry_run:
            body = DeployCertificate(name=name, account=link.account, domains=domains)
            await show_preview(link, platform, body)
            return
        ordered = await platform.deploy(name, link.account, domains)
        ended = await platform.results(ordered.command_id)
        await _tell(
            link, platform, ended, {"command_id": ordered.command_id, "results": ended}, wait
        )


@command(
    cert_app,
    "delete",
    examples=["edgetls cert delete wild-2026", "edgetls cert delete wild-2026 --dry-run"],
)
async def delete(link: Link, name: NameArgument, dry_run: DryRun = False) -> None:
    """Deletes a stored certificate; refused while a domain uses it."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, DeleteCertificate(name=name, account=link.account))
            return
        await report(
            link, platform, await platform.delete_certificate(name, link.account), "deleted"
        )


@command(cert_app, "list", examples=["edgetls cert list", "edgetls cert list --json"])
async def list_certificates(link: Link) -> None:
    """Every stored certificate of the account."""
    async with link.platform() as platform:
        found = [one async for one in platform.certificates(link.account)]
    link.out.data(found)
    link.out.table(
        ("name", "version", "trust", "names", "until", "domains"),
        [
            (one.name, one.version, one.trust, _names(one), _until(one), one.domains)
            for one in found
        ],
        empty=f"no stored certificates in the account {link.account}",
    )


@command(
    cert_app, "show", examples=["edgetls cert show wild-2026", "edgetls cert show wild-2026 --json"]
)
async def show(link: Link, name: NameArgument) -> None:
    """A stored certificate; never its key."""
    async with link.platform() as platform:
        view = await platform.certificate(name, link.account)
    link.out.data(view)
    rows: list[tuple[str, object]] = [
        ("name", view.name),
        ("account", view.account),
        ("trust", view.trust),
        ("version", view.version),
        ("stored at", f"{view.stored_at:%Y-%m-%d %H:%M:%S} UTC" if view.stored_at else "-"),
        ("domains that use it", view.domains),
        ("pending submission", view.pending_submission or "-"),
    ]
    for one in view.certificates:
        rows += certificate_rows(one)
    link.out.table(("", ""), rows)


@command(cert_app, "usage", examples=["edgetls cert usage wild-2026"])
async def usage(link: Link, name: NameArgument) -> None:
    """The domains that a stored certificate serves, and those that keep it for a rollback."""
    async with link.platform() as platform:
        found = await platform.certificate_usage(name, link.account)
    link.out.data(found)
    link.out.table(
        ("domain", "serves"),
        [(use.domain, _served(use)) for use in found],
        empty="no domain uses it",
    )


@command(
    roots_app,
    "set",
    examples=[
        "edgetls roots set roots.pem",
        "edgetls roots set roots.pem --dry-run",
        "edgetls roots set --none",
    ],
)
async def set_roots(
    link: Link,
    file: Annotated[
        Path | None, typer.Argument(help="All of the CA certificates, in PEM.", metavar="[FILE]")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Clear the list.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Sets the account's own roots; they hold for what is judged from then on."""
    if (file is None) != none:
        raise typer.BadParameter("name a file, or --none")
    text = "" if file is None else read_text(file, "the roots")
    if file is not None and not text.strip():
        raise SettingsError(f"{file} holds nothing: clear the list with --none")
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, SetRoots(account=link.account, roots=text))
            return
        await report(link, platform, await platform.set_roots(link.account, text), "set")


@command(roots_app, "list", examples=["edgetls roots list"])
async def list_roots(link: Link) -> None:
    """The account's own roots."""
    async with link.platform() as platform:
        view = await platform.roots(link.account)
    link.out.data(view)
    link.out.table(
        ("subject", "until", "fingerprint"),
        [(root.subject, f"{root.not_after:%Y-%m-%d}", root.fingerprint) for root in view.roots],
        empty=f"no roots in the account {link.account}",
    )


def add_to(app: typer.Typer) -> None:
    app.add_typer(cert_app, name="cert")
    app.add_typer(roots_app, name="roots")


async def _tell(
    link: Link,
    platform: Platform,
    ended: Sequence[CommandResult],
    result: dict[str, Any],
    wait: bool,
) -> None:
    """Each domain's end, with ``wait`` when every node serves it, and the result; Refused where one
    was not done."""
    if ended:
        rows = [
            (one.domain, one.outcome.value, one.revision or "-", ", ".join(one.codes))
            for one in ended
        ]
        link.out.table(("domain", "outcome", "revision", "codes"), rows)
    found = [
        each.model_copy(update={"domain": one.domain}) for one in ended for each in findings_of(one)
    ]
    if wait:
        nodes: dict[str, int] = {}
        with told_anyway(link, {**result, "nodes": nodes}):
            await _live(link, platform, ended, nodes)
        result = {**result, "nodes": nodes}
    link.out.data(result)
    if not all(one.outcome in (Outcome.APPLIED, Outcome.UNCHANGED) for one in ended):
        raise Refused(found)
    link.out.findings(found)


async def _live(
    link: Link, platform: Platform, ended: Sequence[CommandResult], nodes: dict[str, int]
) -> None:
    """``nodes``: how many serve each domain."""
    for one in ended:
        if one.domain is not None and one.revision is not None:
            live = await platform.converged(one.domain, one.revision, teller(link))
            link.out.note(f"{one.domain}: {live_line(live, live.slowest_ms)}")
            nodes[one.domain] = live.nodes


def _served(use: Use) -> str:
    if not use.live:
        return "another one; kept for a rollback"
    return "the present one" if use.current else "the one before"


def _names(view: StoredView) -> str:
    return (
        ", ".join(dict.fromkeys(name for one in view.certificates for name in one.sans))
        or "being judged"
    )


def _until(view: StoredView) -> str:
    return (
        f"{min(one.not_after for one in view.certificates):%Y-%m-%d}" if view.certificates else "-"
    )
