"""``--dry-run``: what a command would change, told and not done."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli.command import Link
from clients.platform import Platform
from shared.contracts.base import Contract
from shared.contracts.domains import Outcome
from shared.contracts.findings import Finding
from shared.errors import Refused

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")]


async def show_preview(link: Link, platform: Platform, command: Contract) -> None:
    """Refused when the command would be refused somewhere; where it would be done in part, that is
    told before."""
    preview = await platform.preview(command)
    findings: list[Finding] = [found for effect in preview.effects for found in effect.findings]
    refused = [
        effect
        for effect in preview.effects
        if effect.outcome not in (Outcome.APPLIED, Outcome.UNCHANGED)
    ]
    if refused and len(refused) == len(preview.effects):
        raise Refused(findings)
    link.out.data(preview)
    rows: list[tuple[str, ...]] = []
    for effect in preview.effects:
        where, outcome = effect.domain or effect.certificate or "-", effect.outcome.value
        rows += [
            (where, outcome, one.field, one.before or "-", one.after or "-")
            for one in effect.changes
        ] or [(where, outcome, "-", "-", "-")]
    link.out.table(
        ("where", "would be", "field", "before", "after"), rows, empty="nothing would change"
    )
    if refused:
        raise Refused(findings)
    link.out.findings(findings)
