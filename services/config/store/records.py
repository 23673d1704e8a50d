"""What was settled: history and submissions, written with the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from services.config.messages import codes
from services.config.orders import Event, FindingsDropped, JudgingBegan, Settled
from shared import subjects
from shared.contracts.findings import Finding
from shared.storage.pool import Connection

FINDINGS: Final = TypeAdapter(list[Finding])


@dataclass(frozen=True)
class Recorded:
    """What happened to one domain, in order."""

    domain: str
    events: Sequence[Event]


async def write(connection: Connection, recorded: Sequence[Recorded], at: datetime) -> None:
    """In the order of a domain's events: a disable drops what was found before it."""
    settled = [(one.domain, event) for one in recorded for event in one.events if isinstance(event, Settled)]
    await _history(connection, settled, at)
    before = [Recorded(one.domain, one.events[: _drop(one.events)]) for one in recorded]
    after = [Recorded(one.domain, one.events[_drop(one.events) :]) for one in recorded]
    await _submissions(connection, before)
    dropped = [one.domain for one in after if one.events and isinstance(one.events[0], FindingsDropped)]
    if dropped:
        await connection.execute("update submissions set findings = '[]' where domain = any($1::text[])", dropped)
        await connection.execute("delete from expiry_notices where domain = any($1::text[])", dropped)
    await _submissions(connection, after)


def _drop(events: Sequence[Event]) -> int:
    """Where the last drop of findings is; the end, where there is none."""
    places = [place for place, event in enumerate(events) if isinstance(event, FindingsDropped)]
    return places[-1] if places else len(events)


async def _submissions(connection: Connection, recorded: Sequence[Recorded]) -> None:
    began = [(one.domain, event.pending.cause) for one in recorded for event in one.events
             if isinstance(event, JudgingBegan)]
    ended = [(one.domain, event) for one in recorded for event in one.events
             if isinstance(event, Settled) and event.cause.command == subjects.CMD_CERTIFICATE_SUBMIT]
    if began:
        await connection.executemany(
            "insert into submissions (submission_id, domain, account) values ($1, $2, $3) on conflict do nothing",
            [(cause.command_id, domain, cause.account) for domain, cause in began],
        )
    if ended:
        await connection.executemany(
            "insert into submissions (submission_id, domain, account, outcome, revision, findings)"
            " values ($1, $2, $3, $4, $5, $6) on conflict (submission_id) do update set outcome = excluded.outcome,"
            " revision = excluded.revision, findings = excluded.findings, updated_at = now()",
            [(event.cause.command_id, domain, event.cause.account, event.outcome.value, event.revision,
              FINDINGS.dump_json(list(event.findings)).decode()) for domain, event in ended],
        )


async def _history(connection: Connection, settled: Sequence[tuple[str, Settled]], at: datetime) -> None:
    if not settled:
        return
    await connection.executemany(
        "insert into history (domain, account, command_id, command, source, outcome, codes, revision, received_at,"
        " settled_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
        [(domain, event.cause.account, event.cause.command_id, event.cause.command, event.cause.source,
          event.outcome.value, codes(event), event.revision, event.cause.received_at, at) for domain, event in settled],
    )
