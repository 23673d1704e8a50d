"""History: how every command ended at each of its places, written with the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from services.config.domain import history_codec
from services.config.domain.commands import Event, FindingsDropped, Settled
from services.config.domain.library_entry import Event as LibraryEvent
from services.config.domain.model import Where
from services.config.domain.outgoing_messages import codes
from shared.contracts.findings import Finding
from shared.storage.pool import Connection

FINDINGS: Final = TypeAdapter(list[Finding])
_WRITE: Final = """
insert into history (domain, certificate, account, command_id, command, source, outcome, codes,
  findings, change,
    revision, received_at, settled_at)
select domain, certificate, account, command_id, command, source, outcome, string_to_array(codes,
' '), findings,
    change, revision, received_at, $13
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
$8::text[],
    $9::text[], $10::jsonb[], $11::bigint[], $12::timestamptz[]) with ordinality
    as h (domain, certificate, account, command_id, command, source, outcome, codes, findings,
    change, revision,
    received_at, place)
order by place
on conflict do nothing
"""


@dataclass(frozen=True)
class Recorded:
    """What happened at one place, in order."""

    where: Where
    events: Sequence[Event | LibraryEvent]


async def write(connection: Connection, recorded: Sequence[Recorded], at: datetime) -> None:
    """Each place has a command once. A disable drops what was found on its domain before it, and of
    its certificates (rule B3): codes stay."""
    bare = [
        one.where.domain
        for one in recorded
        if any(isinstance(event, FindingsDropped) for event in one.events)
    ]
    if bare:
        await connection.execute(
            "update history set findings = '[]', change = change - 'certificate' where domain "
            "= any($1::text[]) and"
            " (findings <> '[]' or change ? 'certificate')",
            bare,
        )
    rows = [row for one in recorded for row in _rows(one)]
    if rows:
        await connection.execute(_WRITE, *(list(column) for column in zip(*rows, strict=True)), at)


def _rows(one: Recorded) -> list[tuple[object, ...]]:
    drops = [place for place, event in enumerate(one.events) if isinstance(event, FindingsDropped)]
    last = drops[-1] if drops else -1
    changes = {
        event.cause.command_id: event
        for event in one.events
        if isinstance(event, history_codec.Change)
    }
    return [
        _row(one.where, event, changes.get(event.cause.command_id), dropped=place < last)
        for place, event in enumerate(one.events)
        if isinstance(event, Settled)
    ]


def _row(
    where: Where, settled: Settled, change: history_codec.Change | None, *, dropped: bool
) -> tuple[object, ...]:
    cause = settled.cause
    found = [] if dropped else list(settled.findings)
    told = None if change is None else history_codec.kept(change)
    if told is not None and dropped:
        told.pop("certificate", None)
    return (
        where.domain or "",
        where.certificate,
        cause.account,
        cause.command_id,
        cause.command,
        cause.source,
        settled.outcome.value,
        " ".join(codes(settled)),
        FINDINGS.dump_json(found).decode(),
        told,
        settled.revision,
        cause.received_at,
    )
