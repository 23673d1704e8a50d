"""History: how every command ended at each of its targets, written with the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter

from services.config.domain import history_codec
from services.config.domain.events import Event, FindingsDropped, Settled
from services.config.domain.model import CommandTarget
from services.config.domain.outgoing_messages import finding_codes
from shared.contracts.findings import Finding
from shared.storage.pool import Connection

FINDINGS: Final = TypeAdapter(list[Finding])
_WRITE: Final = """
insert into history (domain, certificate, account, command_id, command, source, outcome, codes,
    findings, change, revision, received_at, settled_at)
select domain, certificate, account, command_id, command, source, outcome,
    string_to_array(codes, ' '), findings, change::jsonb, revision, received_at, $13
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::bigint[], $12::timestamptz[]) with ordinality
    as h (domain, certificate, account, command_id, command, source, outcome, codes, findings,
        change, revision, received_at, place)
order by place
on conflict do nothing
"""
_DROP_FINDINGS: Final = """
update history set findings = '[]', change = change - 'certificate'
where domain = any($1::text[]) and (findings <> '[]' or change ? 'certificate')
"""


async def write_history(
    connection: Connection,
    recorded: Sequence[tuple[CommandTarget, Sequence[Event]]],
    at: datetime,
) -> None:
    """Write the end of each command at each target, in order.

    A disable deletes what was found on its domain before it, and the certificates in its changes
    (rule B3). The codes stay."""
    bare_domains = []
    rows = []
    for target, events in recorded:
        if any(isinstance(event, FindingsDropped) for event in events):
            bare_domains.append(target.domain)
        rows += _history_rows(target, events)
    if bare_domains:
        await connection.execute(_DROP_FINDINGS, bare_domains)
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        await connection.execute(_WRITE, *columns, at)


def _history_rows(target: CommandTarget, events: Sequence[Event]) -> list[tuple[Any, ...]]:
    # A disable deletes the findings and certificates of rows before it. Those of the same run are
    # not written yet, so what came before the last disable of the run is written without them.
    last_drop = -1
    changes: dict[str, history_codec.RecordedEvent] = {}
    for index, event in enumerate(events):
        if isinstance(event, FindingsDropped):
            last_drop = index
        elif isinstance(event, history_codec.RecordedEvent):
            changes[event.cause.command_id] = event
    rows = []
    for index, event in enumerate(events):
        if isinstance(event, Settled):
            change = changes.get(event.cause.command_id)
            rows.append(_history_row(target, event, change, dropped=index < last_drop))
    return rows


def _history_row(
    target: CommandTarget,
    settled: Settled,
    change: history_codec.RecordedEvent | None,
    *,
    dropped: bool,
) -> tuple[Any, ...]:
    cause = settled.cause
    findings = "[]"
    if settled.findings and not dropped:
        findings = FINDINGS.dump_json(list(settled.findings)).decode()
    recorded = None
    if change is not None:
        recorded = history_codec.encode_event(change, certificate=not dropped)
    return (
        target.domain or "",
        target.certificate,
        cause.account,
        cause.command_id,
        cause.command,
        cause.source,
        settled.outcome.value,
        " ".join(finding_codes(settled)),
        findings,
        recorded,
        settled.revision,
        cause.received_at,
    )
