"""Domains and their HTTPS: register, submit, check, disable, history."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.command import Link, command
from clients.cli.files import read_pairs
from clients.cli.output import Exit, milliseconds
from clients.cli.preview import DryRun, show_preview
from clients.platform import Live, Ordered, Platform, Progressed, findings_of
from clients.platform.client import parse_origin
from shared.contracts.accounts import Suspension
from shared.contracts.commands import DisableHttps, RegisterDomain, RemoveDomain
from shared.contracts.domains import CertificateView, CommandSettled, DomainView, Hsts, Outcome
from shared.contracts.findings import Code, Finding, Severity, finding
from shared.contracts.queries import History
from shared.errors import Refused, Unreachable

domain_app = typer.Typer(
    help="Register, show, list and remove accelerated domains.", no_args_is_help=True
)
DomainArgument = Annotated[
    str, typer.Argument(help="www.example.com, or *.example.com.", metavar="DOMAIN")
]


Limit = Annotated[int, typer.Option(min=1, max=500, help="How many, newest first.")]
After = Annotated[
    int | None, typer.Option(min=1, help="Where the page begins: the `next` of the page before.")
]


class TrustOption(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"


TrustChoice = Annotated[
    TrustOption, typer.Option(help="public (Mozilla's roots) or private (the account's own).")
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
async def register(
    link: Link,
    domain: DomainArgument,
    service_type: Annotated[
        str,
        typer.Option(
            "--type", "--service-type", help="image_small_file, download, video or live_streaming."
        ),
    ],
    origin: Annotated[str, typer.Option(help="Where nodes fetch content: http(s)://host[:port].")],
    trust: TrustChoice = TrustOption.PUBLIC,
    dry_run: DryRun = False,
) -> None:
    """Registers a domain for the account; HTTP is served at once, HTTPS after the first
    certificate."""
    async with link.platform() as platform:
        if dry_run:
            body = RegisterDomain(
                domain=domain,
                account=link.account,
                service_type=service_type,
                origin=parse_origin(origin),
                trust=trust.value,
            )
            await show_preview(link, platform, body)
            return
        ordered = await platform.register(
            domain, link.account, service_type, origin, trust=trust.value
        )
        await report(link, platform, ordered, "registered")


@command(
    domain_app,
    "remove",
    examples=[
        "edgetls domain remove www.example.com",
        "edgetls domain remove www.example.com --dry-run",
    ],
)
async def remove(link: Link, domain: DomainArgument, dry_run: DryRun = False) -> None:
    """Removes a domain and everything that belongs to it."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, RemoveDomain(domain=domain, account=link.account))
            return
        await report(link, platform, await platform.remove(domain, link.account), "removed")


@command(
    domain_app,
    "show",
    examples=["edgetls domain show www.example.com", "edgetls domain show www.example.com --json"],
)
async def show(link: Link, domain: DomainArgument) -> None:
    """State, settings, certificate and the revision that every node serves."""
    async with link.platform() as platform:
        view = await platform.show(domain, link.account)
    link.out.data(view)
    link.out.table(("", ""), _view_rows(view))


async def submit(
    link: Link,
    domain: DomainArgument,
    cert: Annotated[
        list[Path], typer.Option("--cert", help="PEM chain, leaf first; twice for RSA and ECDSA.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="Its private key in PEM; sealed before it is sent.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name for the certificate; generated if omitted.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every node serves it.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what would be normalised.")
    ] = False,
) -> None:
    """Enables HTTPS for a domain, or replaces its certificate; with two pairs each visitor gets
    what it supports."""
    (chain, private), *more = read_pairs(cert, key)
    async with link.platform() as platform:
        began = time.monotonic()
        ordered = await platform.submit(
            domain, link.account, chain, private, more=more, strict=strict, name=name
        )
        settled = await platform.settled(ordered.command_id)
        accepted_ms = (time.monotonic() - began) * 1000
        findings = await findings_in_full(platform, settled)
        refuse(settled, findings)
        link.out.note(
            f"{settled.outcome.value}: revision {settled.revision} after "
            f"{milliseconds(accepted_ms)}"
        )
        link.out.findings(findings)
        result: dict[str, Any] = {
            **result_of(settled, findings),
            "accepted_ms": round(accepted_ms, 1),
        }
        if wait and settled.revision is not None:
            with told_anyway(link, result):
                live = await platform.converged(
                    settled.domain or ordered.domain, settled.revision, teller(link)
                )
            live_ms = (time.monotonic() - began) * 1000
            link.out.line(live_line(live, live_ms))
            result |= {
                "live_ms": round(live_ms, 1),
                "nodes": live.nodes,
                "slowest_node_ms": live.slowest_ms,
            }
    link.out.data(result)


async def check(
    link: Link,
    domains: Annotated[
        list[str], typer.Argument(help="One to fifty domains that the pair should serve.")
    ],
    cert: Annotated[
        list[Path], typer.Option("--cert", help="PEM chain, leaf first; twice for RSA and ECDSA.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="Its private key in PEM; sealed before it is sent.")
    ],
    trust: TrustChoice = TrustOption.PUBLIC,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what would be normalised.")
    ] = False,
) -> None:
    """The dry run: what a submission would find. Nothing is stored."""
    (chain, private), *more = read_pairs(cert, key)
    async with link.platform() as platform:
        roots = None
        if trust is TrustOption.PRIVATE:
            roots = [root.pem for root in (await platform.roots(link.account)).roots]
        report = await platform.check(
            domains, link.account, chain, private, more=more, roots=roots, strict=strict
        )
    if not all(report.accepted.values()):
        raise Refused(report.findings)
    link.out.data(report)
    link.out.findings(report.findings)
    link.out.line(f"would be accepted for {', '.join(report.accepted)}")


async def disable(
    link: Link,
    domain: DomainArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every node has dropped it.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Switches HTTPS off; nothing of the certificate or key is kept. Enabling again needs a new
    upload."""
    async with link.platform() as platform:
        if dry_run:
            await show_preview(link, platform, DisableHttps(domain=domain, account=link.account))
            return
        await report(
            link, platform, await platform.disable(domain, link.account), "disabled", wait=wait
        )


async def history(
    link: Link, domain: DomainArgument, limit: Limit = 50, after: After = None
) -> None:
    """Every command for a domain and how it ended, newest first."""
    async with link.platform() as platform:
        found = await platform.history(domain, link.account, before=after, limit=limit)
    show_history(link, found)


def show_history(link: Link, found: History) -> None:
    link.out.data(found)
    link.out.table(
        ("received", "command", "outcome", "revision", "codes", "certificate", "by", "id"),
        [
            (
                f"{e.received_at:%Y-%m-%d %H:%M:%S}",
                e.command,
                e.outcome,
                e.revision or "-",
                ", ".join(e.codes),
                e.certificate or "-",
                e.source,
                e.command_id,
            )
            for e in found.entries
        ],
        empty="no commands yet",
    )
    if found.next is not None:
        link.out.note(f"more: --after {found.next}")


def add_to(app: typer.Typer) -> None:
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
    )(submit)
    command(
        app, "check", examples=["edgetls check www.example.com --cert chain.pem --key key.pem"]
    )(check)
    command(
        app,
        "disable",
        examples=[
            "edgetls disable www.example.com --wait",
            "edgetls disable www.example.com --dry-run",
        ],
    )(disable)
    command(
        app,
        "history",
        examples=[
            "edgetls history www.example.com --limit 10",
            "edgetls history www.example.com --after 4711",
        ],
    )(history)


async def report(
    link: Link, platform: Platform, ordered: Ordered, done: str, *, wait: bool = False
) -> None:
    """Waits for the command's end and says it; Refused when it was not carried out."""
    settled = await platform.settled(ordered.command_id)
    findings = await findings_in_full(platform, settled)
    refuse(settled, findings)
    what = done if settled.outcome is Outcome.APPLIED else settled.outcome.value
    where = settled.domain or settled.certificate or settled.account
    link.out.line(
        f"{where}: {what}" + (f", revision {settled.revision}" if settled.revision else "")
    )
    link.out.findings(findings)
    result = result_of(settled, findings)
    if wait and settled.domain is not None and settled.revision is not None:
        with told_anyway(link, result):
            live = await platform.converged(settled.domain, settled.revision, teller(link))
        link.out.line(live_line(live, live.slowest_ms))
        result["nodes"] = live.nodes
    link.out.data(result)


async def findings_in_full(platform: Platform, settled: CommandSettled) -> list[Finding]:
    """In full; the codes alone where a later disable took the detail away already."""
    if not settled.codes:
        return []
    try:
        view = await platform.command(settled.command_id, settled.account)
    except Unreachable:
        return findings_of(settled)
    here = (settled.domain, settled.certificate)
    return findings_of(
        next((one for one in view.results if (one.domain, one.certificate) == here), settled)
    )


def refuse(settled: CommandSettled, findings: list[Finding]) -> None:
    if settled.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
        return
    named = {one.code for one in findings if one.severity is Severity.REFUSAL}
    if settled.outcome is Outcome.SUPERSEDED and Code.SUBMISSION_SUPERSEDED not in named:
        findings = [*findings, finding(Code.SUBMISSION_SUPERSEDED)]
    if settled.outcome is Outcome.UNDECIDED and Code.SUBMISSION_UNDECIDED not in named:
        findings = [*findings, finding(Code.SUBMISSION_UNDECIDED)]
    raise Refused(findings)


def result_of(settled: CommandSettled, findings: list[Finding]) -> dict[str, Any]:
    return {
        "command_id": settled.command_id,
        "domain": settled.domain,
        "outcome": settled.outcome.value,
        "revision": settled.revision,
        "findings": findings,
    }


@contextmanager
def told_anyway(link: Link, result: dict[str, Any]) -> Iterator[None]:
    """What was carried out is told to programs although waiting for the nodes ends without them."""
    try:
        yield
    except Unreachable as error:
        link.out.data({**result, "error": str(error), "exit": int(Exit.UNREACHABLE)})
        raise


def teller(link: Link) -> Any:
    def tell(progressed: Progressed) -> None:
        link.out.note(
            f"on {progressed.proven} of {progressed.nodes} nodes after "
            f"{milliseconds(progressed.elapsed_ms)}"
        )

    return tell


def live_line(live: Live, elapsed_ms: float | None) -> str:
    after = "" if elapsed_ms is None else f" after {milliseconds(elapsed_ms)}"
    return f"live everywhere: revision {live.revision} on {live.nodes} nodes{after}"


def _view_rows(view: DomainView) -> list[tuple[str, object]]:
    origin, redirect = view.origin, view.settings.redirect
    rows: list[tuple[str, object]] = [
        ("domain", view.domain),
        ("account", view.account),
        ("state", view.state.value),
        ("service type", view.service_type.value),
        ("origin", f"{origin.scheme}://{origin.host}:{origin.port}"),
        ("redirect", f"{redirect.mode.value} ({redirect.status})"),
        (
            "TLS",
            (
                f"{view.settings.tls_min} to {view.settings.tls_max}, HTTP/2 "
                f"{'on' if view.settings.http2 else 'off'}"
            ),
        ),
        ("revision", f"{view.revision}, live everywhere: {view.live_revision or 'not yet'}"),
        ("HSTS", hsts_text(view.settings.hsts)),
        ("trust", view.trust),
        ("pending submission", view.pending_submission or "-"),
        ("suspension", why(view.suspension)),
    ]
    for one in view.certificates:
        rows += [("certificate name", f"{one.name or '-'} ({one.source})"), *certificate_rows(one)]
    return rows


def certificate_rows(one: CertificateView) -> list[tuple[str, object]]:
    """What people look for in a certificate."""
    return [
        ("certificate", f"{one.subject}, {one.key_type} {one.key_bits}, {one.status}"),
        ("  names", ", ".join(one.sans)),
        ("  issuer", one.issuer),
        ("  until", f"{one.not_after:%Y-%m-%d %H:%M} UTC, {one.days_left} days left"),
        ("  fingerprint", one.fingerprint),
    ]


def hsts_text(hsts: Hsts | None) -> str:
    if hsts is None:
        return "off"
    flags = [
        text
        for text, on in (("subdomains", hsts.include_subdomains), ("preload", hsts.preload))
        if on
    ]
    return ", ".join([f"{hsts.max_age} s", *flags])


def why(suspension: Suspension | None) -> str:
    """A sentence: what holds, and what ends it."""
    if suspension is None:
        return "not suspended"
    ends = "when the balance is above 0 again"
    if suspension.resumes == "by_hand":
        ends = "by hand" + (
            ", the balance is above 0" if suspension.settled else ", once the balance is above 0"
        )
    return (
        f"suspended since {suspension.since:%Y-%m-%d %H:%M} UTC: {suspension.reason}; ends {ends}"
    )
