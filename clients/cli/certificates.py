"""The commands on the account's certificate library and on its own roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.command import Context, command
from clients.cli.command_results import (
    describe_live,
    full_findings,
    raise_refusal,
    result_of,
    send_or_preview,
    wait_until_live,
)
from clients.cli.domains import CertOption, KeyOption, StrictOption, WaitOption, certificate_fields
from clients.cli.files import read_pairs, read_text
from clients.cli.output import format_date, format_second
from clients.cli.preview import DryRun, show_preview
from clients.platform import Platform, findings_of
from shared.contracts.certificates import (
    CommandResult,
    DeleteCertificate,
    DeployCertificate,
    SetRoots,
    StoredView,
    Trust,
    Use,
)
from shared.contracts.domains import Outcome
from shared.contracts.findings import Finding
from shared.errors import Refused, SettingsError

cert_app = typer.Typer(help="The account's certificate library.", no_args_is_help=True)
roots_app = typer.Typer(
    help="The account's own roots, for domains with private trust.", no_args_is_help=True
)
NameArgument = Annotated[
    str, typer.Argument(help="Letters, digits, _ - and . (128 at most).", metavar="NAME")
]


@command(
    cert_app,
    "store",
    examples=[
        "edgetls cert store wild-2026 --cert chain.pem --key key.pem",
        "edgetls cert store wild-2026 --cert new.pem --key new.key --overwrite --wait",
    ],
)
async def store_certificate(
    context: Context,
    name: NameArgument,
    cert: CertOption,
    key: KeyOption,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace it; domains that use it follow.")
    ] = False,
    trust: Annotated[Trust, typer.Option(help="Roots to judge it by.")] = "public",
    strict: StrictOption = False,
    wait: WaitOption = False,
) -> None:
    """Store a pair under a name. It is judged once; with --overwrite every domain that uses the
    name follows."""
    (chain, private_key), *more = read_pairs(cert, key)
    async with context.platform() as platform:
        stored = await platform.store(
            name,
            context.account,
            chain,
            private_key,
            more=more,
            overwrite=overwrite,
            strict=strict,
            trust=trust,
        )
        # The library's outcome comes first. Where the pair is refused, no domain follows; where it
        # is stored, each domain that uses the name is decided after it.
        own = await platform.settled(stored.command_id)
        findings = await full_findings(platform, own)
        raise_refusal(own, findings)
        results = await platform.results(stored.command_id)
        followed = [result for result in results if result.domain is not None]
        what = "stored" if own.outcome is Outcome.APPLIED else own.outcome.value
        context.output.line(f"{name}: {what}")
        context.output.show_findings(findings)
        summary = {**result_of(own, findings), "name": name, "followed": followed}
        await _report_results(context, platform, followed, summary, wait)


@command(
    cert_app,
    "deploy",
    examples=[
        "edgetls cert deploy wild-2026 a.example.com b.example.com --wait",
        "edgetls cert deploy wild-2026 a.example.com --dry-run",
    ],
)
async def deploy_certificate(
    context: Context,
    name: NameArgument,
    domains: Annotated[
        list[str], typer.Argument(help="One to fifty domains.", metavar="DOMAIN...")
    ],
    wait: WaitOption = False,
    dry_run: DryRun = False,
) -> None:
    """Serve a stored certificate on up to fifty domains at once, each with its own result."""
    body = DeployCertificate(name=name, account=context.account, domains=domains)
    async with context.platform() as platform:
        if dry_run:
            await show_preview(context, platform, body)
            return
        stored = await platform.send_command(body)
        results = await platform.results(stored.command_id)
        summary = {"command_id": stored.command_id, "results": results}
        await _report_results(context, platform, results, summary, wait)


@command(
    cert_app,
    "delete",
    examples=["edgetls cert delete wild-2026", "edgetls cert delete wild-2026 --dry-run"],
)
async def delete_certificate(context: Context, name: NameArgument, dry_run: DryRun = False) -> None:
    """Delete a stored certificate. Refused while a domain uses it."""
    body = DeleteCertificate(name=name, account=context.account)
    await send_or_preview(context, body, "deleted", dry_run=dry_run)


@command(cert_app, "list", examples=["edgetls cert list", "edgetls cert list --json"])
async def list_certificates(context: Context) -> None:
    """List every stored certificate of the account."""
    async with context.platform() as platform:
        stored = [view async for view in platform.certificates(context.account)]
    context.output.show_list(
        stored,
        {
            "name": lambda view: view.name,
            "version": lambda view: view.version,
            "trust": lambda view: view.trust,
            "names": _format_names,
            "until": _format_expiry,
            "domains": lambda view: view.domains,
        },
        empty=f"no stored certificates in the account {context.account}",
    )


@command(
    cert_app, "show", examples=["edgetls cert show wild-2026", "edgetls cert show wild-2026 --json"]
)
async def show_certificate(context: Context, name: NameArgument) -> None:
    """Show a stored certificate, never its key."""
    async with context.platform() as platform:
        view = await platform.certificate(name, context.account)
    stored_at = f"{format_second(view.stored_at)} UTC" if view.stored_at else "-"
    fields: list[tuple[str, object]] = [
        ("name", view.name),
        ("account", view.account),
        ("trust", view.trust),
        ("version", view.version),
        ("stored at", stored_at),
        ("domains that use it", view.domains),
        ("pending submission", view.pending_submission or "-"),
    ]
    for certificate in view.certificates:
        fields += certificate_fields(certificate)
    context.output.show_record(view, fields)


@command(cert_app, "usage", examples=["edgetls cert usage wild-2026"])
async def show_certificate_usage(context: Context, name: NameArgument) -> None:
    """List the domains that a stored certificate serves, and those that keep it for a rollback."""
    async with context.platform() as platform:
        uses = await platform.certificate_usage(name, context.account)
    context.output.show_list(
        uses,
        {"domain": lambda use: use.domain, "serves": _format_served},
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
    context: Context,
    file: Annotated[
        Path | None, typer.Argument(help="All of the CA certificates, in PEM.", metavar="[FILE]")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Clear the list.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Set the account's own roots. They hold for what is judged from then on."""
    if (file is None) != none:
        raise SettingsError("name a file, or --none")
    text = ""
    if file is not None:
        text = read_text(file, "the roots")
        if not text.strip():
            raise SettingsError(f"{file} holds nothing: clear the list with --none")
    body = SetRoots(account=context.account, roots=text)
    await send_or_preview(context, body, "set", dry_run=dry_run)


@command(roots_app, "list", examples=["edgetls roots list"])
async def list_roots(context: Context) -> None:
    """List the account's own roots."""
    async with context.platform() as platform:
        view = await platform.roots(context.account)
    context.output.data(view)
    context.output.show_table(
        view.roots,
        {
            "subject": lambda root: root.subject,
            "until": lambda root: format_date(root.not_after),
            "fingerprint": lambda root: root.fingerprint,
        },
        empty=f"no roots in the account {context.account}",
    )


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(cert_app, name="cert")
    app.add_typer(roots_app, name="roots")


async def _report_results(
    context: Context,
    platform: Platform,
    results: Sequence[CommandResult],
    summary: dict[str, Any],
    wait: bool,
) -> None:
    """Print each domain's outcome and, with ``wait``, when every node serves it.

    ``summary``: the result for programs. Refused when a domain was not done."""
    if results:
        context.output.show_table(
            results,
            {
                "domain": lambda result: result.domain,
                "outcome": lambda result: result.outcome.value,
                "revision": lambda result: result.revision or "-",
                "codes": lambda result: ", ".join(result.codes),
            },
        )
    findings: list[Finding] = []
    complete = True
    for result in results:
        complete = complete and result.outcome in (Outcome.APPLIED, Outcome.UNCHANGED)
        for found in findings_of(result):
            findings.append(found.model_copy(update={"domain": result.domain}))
    if wait:
        # How many nodes serve each domain. It is part of the summary from the start, so that it is
        # printed as far as it came when the nodes of a later domain do not follow in time.
        nodes: dict[str, int] = {}
        summary = {**summary, "nodes": nodes}
        for result in results:
            if result.domain is not None and result.revision is not None:
                live = await wait_until_live(
                    context, platform, result.domain, result.revision, summary
                )
                context.output.note(f"{result.domain}: {describe_live(live, live.slowest_ms)}")
                nodes[result.domain] = live.nodes
    context.output.data(summary)
    if not complete:
        raise Refused(findings)
    context.output.show_findings(findings)


def _format_served(use: Use) -> str:
    if not use.live:
        return "another one; kept for a rollback"
    return "the present one" if use.current else "the one before"


def _format_names(view: StoredView) -> str:
    names: dict[str, None] = {}
    for certificate in view.certificates:
        names.update(dict.fromkeys(certificate.sans))
    return ", ".join(names) or "being judged"


def _format_expiry(view: StoredView) -> str:
    if not view.certificates:
        return "-"
    return format_date(min(certificate.not_after for certificate in view.certificates))
