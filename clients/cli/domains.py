"""The commands on domains and their HTTPS: register, submit, check, disable, history."""

from __future__ import annotations

import time
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
from clients.cli.files import read_pairs
from clients.cli.output import format_milliseconds, format_second
from clients.cli.preview import DryRun
from clients.platform.settings_change import parse_origin
from shared.contracts.accounts import Suspension
from shared.contracts.certificates import Trust
from shared.contracts.commands import DisableHttps, RegisterDomain, RemoveDomain
from shared.contracts.domains import CertificateView, DomainView, Hsts
from shared.contracts.queries import History
from shared.errors import Refused

domain_app = typer.Typer(
    help="Register, show, list and remove accelerated domains.", no_args_is_help=True
)
DomainArgument = Annotated[
    str, typer.Argument(help="www.example.com, or *.example.com.", metavar="DOMAIN")
]
CertOption = Annotated[
    list[Path], typer.Option("--cert", help="PEM chain, leaf first; twice for RSA and ECDSA.")
]
KeyOption = Annotated[
    list[Path], typer.Option("--key", help="Its private key in PEM; sealed before it is sent.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse what would be normalised.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until every node serves it.")]
TrustOption = Annotated[
    Trust, typer.Option(help="public (Mozilla's roots) or private (the account's own).")
]
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many, newest first.")]
After = Annotated[
    int | None, typer.Option(min=1, help="Where the page begins: the `next` of the page before.")
]


@command(
    domain_app,
    "register",
    examples=[
        "edgetls domain register www.example.com --type video --origin https://origin.example.com",
        (
            "edgetls domain register '*.img.example.com' --type image_small_file --origin "
            "http://origin.example.com:8080"
        ),
    ],
)
async def register_domain(
    context: Context,
    domain: DomainArgument,
    service_type: Annotated[
        str,
        typer.Option(
            "--type", "--service-type", help="image_small_file, download, video or live_streaming."
        ),
    ],
    origin: Annotated[str, typer.Option(help="Where nodes fetch content: http(s)://host[:port].")],
    trust: TrustOption = "public",
    dry_run: DryRun = False,
) -> None:
    """Register a domain for the account. HTTP is served at once, HTTPS after the first
    certificate."""
    body = RegisterDomain(
        domain=domain,
        account=context.account,
        service_type=service_type,
        origin=parse_origin(origin),
        trust=trust,
    )
    await send_or_preview(context, body, "registered", dry_run=dry_run)


@command(
    domain_app,
    "remove",
    examples=[
        "edgetls domain remove www.example.com",
        "edgetls domain remove www.example.com --dry-run",
    ],
)
async def remove_domain(context: Context, domain: DomainArgument, dry_run: DryRun = False) -> None:
    """Remove a domain and everything that belongs to it."""
    body = RemoveDomain(domain=domain, account=context.account)
    await send_or_preview(context, body, "removed", dry_run=dry_run)


@command(
    domain_app,
    "show",
    examples=["edgetls domain show www.example.com", "edgetls domain show www.example.com --json"],
)
async def show_domain(context: Context, domain: DomainArgument) -> None:
    """Show state, settings, certificate and the revision that every node serves."""
    async with context.platform() as platform:
        view = await platform.show(domain, context.account)
    context.output.show_record(view, _domain_fields(view))


async def submit_certificate(
    context: Context,
    domain: DomainArgument,
    cert: CertOption,
    key: KeyOption,
    name: Annotated[
        str | None, typer.Option("--name", help="Name for the certificate; generated if omitted.")
    ] = None,
    wait: WaitOption = False,
    strict: StrictOption = False,
) -> None:
    """Enable HTTPS for a domain, or replace its certificate. With two pairs each visitor gets the
    one that it supports."""
    (chain, private_key), *more = read_pairs(cert, key)
    output = context.output
    # accepted_ms ends with config's decision, live_ms with the last node's proof. Both begin before
    # the command is sent, as a customer counts them.
    async with context.platform() as platform:
        started = time.monotonic()
        stored = await platform.submit(
            domain, context.account, chain, private_key, more=more, strict=strict, name=name
        )
        settled = await platform.settled(stored.command_id)
        accepted_ms = (time.monotonic() - started) * 1000
        findings = await full_findings(platform, settled)
        raise_refusal(settled, findings)
        output.note(
            f"{settled.outcome.value}: revision {settled.revision} after "
            f"{format_milliseconds(accepted_ms)}"
        )
        output.show_findings(findings)
        result: dict[str, Any] = result_of(settled, findings)
        result["accepted_ms"] = round(accepted_ms, 1)
        if wait and settled.revision is not None:
            live = await wait_until_live(
                context, platform, settled.domain or stored.domain, settled.revision, result
            )
            live_ms = (time.monotonic() - started) * 1000
            output.line(describe_live(live, live_ms))
            result["live_ms"] = round(live_ms, 1)
            result["nodes"] = live.nodes
            result["slowest_node_ms"] = live.slowest_ms
    output.data(result)


async def check_certificate(
    context: Context,
    domains: Annotated[
        list[str], typer.Argument(help="One to fifty domains that the pair should serve.")
    ],
    cert: CertOption,
    key: KeyOption,
    trust: TrustOption = "public",
    strict: StrictOption = False,
) -> None:
    """Show what a submission would find. Nothing is stored."""
    (chain, private_key), *more = read_pairs(cert, key)
    async with context.platform() as platform:
        # A dry run names the roots itself: the validator stores nothing, also no account's roots.
        roots = None
        if trust == "private":
            roots = [root.pem for root in (await platform.roots(context.account)).roots]
        report = await platform.check(
            domains, context.account, chain, private_key, more=more, roots=roots, strict=strict
        )
    if not all(report.accepted.values()):
        raise Refused(report.findings)
    context.output.data(report)
    context.output.show_findings(report.findings)
    context.output.line(f"would be accepted for {', '.join(report.accepted)}")


async def disable_https(
    context: Context,
    domain: DomainArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every node has dropped it.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Switch HTTPS off; nothing of the certificate or key is kept. Enabling it again needs a new
    upload."""
    body = DisableHttps(domain=domain, account=context.account)
    await send_or_preview(context, body, "disabled", dry_run=dry_run, wait=wait)


async def show_domain_history(
    context: Context, domain: DomainArgument, limit: Limit = 50, after: After = None
) -> None:
    """List every command for a domain and how it ended, newest first."""
    async with context.platform() as platform:
        history = await platform.history(domain, context.account, before=after, limit=limit)
    show_history(context, history)


def show_history(context: Context, history: History) -> None:
    """Print a page of commands and their outcomes."""
    context.output.data(history)
    context.output.show_table(
        history.entries,
        {
            "received": lambda entry: format_second(entry.received_at),
            "command": lambda entry: entry.command,
            "outcome": lambda entry: entry.outcome,
            "revision": lambda entry: entry.revision or "-",
            "codes": lambda entry: ", ".join(entry.codes),
            "certificate": lambda entry: entry.certificate or "-",
            "by": lambda entry: entry.source,
            "id": lambda entry: entry.command_id,
        },
        empty="no commands yet",
    )
    if history.next is not None:
        context.output.note(f"more: --after {history.next}")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(domain_app, name="domain")
    command(
        app,
        "submit",
        examples=[
            "edgetls submit www.example.com --cert chain.pem --key key.pem --wait",
            (
                "edgetls submit www.example.com --cert rsa.pem --key rsa.key --cert ecdsa.pem "
                "--key ecdsa.key"
            ),
            "edgetls submit www.example.com --cert chain.pem --key key.pem --name www-2027 --json",
        ],
    )(submit_certificate)
    command(
        app, "check", examples=["edgetls check www.example.com --cert chain.pem --key key.pem"]
    )(check_certificate)
    command(
        app,
        "disable",
        examples=[
            "edgetls disable www.example.com --wait",
            "edgetls disable www.example.com --dry-run",
        ],
    )(disable_https)
    command(
        app,
        "history",
        examples=[
            "edgetls history www.example.com --limit 10",
            "edgetls history www.example.com --after 4711",
        ],
    )(show_domain_history)


def _domain_fields(view: DomainView) -> list[tuple[str, object]]:
    origin = view.origin
    settings = view.settings
    http2 = "on" if settings.http2 else "off"
    fields: list[tuple[str, object]] = [
        ("domain", view.domain),
        ("account", view.account),
        ("state", view.state.value),
        ("service type", view.service_type.value),
        ("origin", f"{origin.scheme}://{origin.host}:{origin.port}"),
        ("redirect", f"{settings.redirect.mode.value} ({settings.redirect.status})"),
        ("TLS", f"{settings.tls_min} to {settings.tls_max}, HTTP/2 {http2}"),
        ("revision", f"{view.revision}, live everywhere: {view.live_revision or 'not yet'}"),
        ("HSTS", describe_hsts(settings.hsts)),
        ("trust", view.trust),
        ("pending submission", view.pending_submission or "-"),
        ("suspension", describe_suspension(view.suspension)),
    ]
    for certificate in view.certificates:
        fields.append(("certificate name", f"{certificate.name or '-'} ({certificate.source})"))
        fields += certificate_fields(certificate)
    return fields


def certificate_fields(one: CertificateView) -> list[tuple[str, object]]:
    """Return what people look for in a certificate."""
    return [
        ("certificate", f"{one.subject}, {one.key_type} {one.key_bits}, {one.status}"),
        ("  names", ", ".join(one.sans)),
        ("  issuer", one.issuer),
        ("  until", f"{one.not_after:%Y-%m-%d %H:%M} UTC, {one.days_left} days left"),
        ("  fingerprint", one.fingerprint),
    ]


def describe_hsts(hsts: Hsts | None) -> str:
    """Return the HSTS settings in one line."""
    if hsts is None:
        return "off"
    parts = [f"{hsts.max_age} s"]
    if hsts.include_subdomains:
        parts.append("subdomains")
    if hsts.preload:
        parts.append("preload")
    return ", ".join(parts)


def describe_suspension(suspension: Suspension | None) -> str:
    """Return a sentence: what holds, and what ends it."""
    if suspension is None:
        return "not suspended"
    if suspension.resumes != "by_hand":
        ends = "when the balance is above 0 again"
    elif suspension.settled:
        ends = "by hand, the balance is above 0"
    else:
        ends = "by hand, once the balance is above 0"
    return (
        f"suspended since {suspension.since:%Y-%m-%d %H:%M} UTC: {suspension.reason}; ends {ends}"
    )
