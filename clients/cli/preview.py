"""``--dry-run``: show what a command would change."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli.command import Context
from clients.platform import Platform
from shared.contracts.base import Contract
from shared.contracts.domains import Outcome
from shared.errors import Refused

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")]


async def show_preview(context: Context, platform: Platform, command: Contract) -> None:
    """Print what the command would change.

    Refused when it would be refused everywhere, and nothing is printed; Refused after the table
    when it would be refused on a part."""
    preview = await platform.preview(command)
    findings = []
    refused = 0
    rows: list[tuple[str, ...]] = []
    for effect in preview.effects:
        findings += effect.findings
        if effect.outcome not in (Outcome.APPLIED, Outcome.UNCHANGED):
            refused += 1
        target = (effect.domain or effect.certificate or "-", effect.outcome.value)
        for change in effect.changes:
            rows.append((*target, change.field, change.before or "-", change.after or "-"))
        if not effect.changes:
            rows.append((*target, "-", "-", "-"))
    # A command on many domains may be refused on some and carried out on the others.
    if refused and refused == len(preview.effects):
        raise Refused(findings)
    context.output.data(preview)
    context.output.show_rows(
        ("where", "would be", "field", "before", "after"), rows, empty="nothing would change"
    )
    if refused:
        raise Refused(findings)
    context.output.show_findings(findings)
