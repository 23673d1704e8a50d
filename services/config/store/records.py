"""What was settled: history and submissions, written with the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from services.config.messages import codes
from services.config.orders import Event, FindingsDropped, JudgingBegan, Settled
from shared import subjects
from shared.contracts.findings import Finding
from shared.storage.pool import Connection

FINDINGS: Final = TypeAdapter(list[Finding])


async def write(connection: Connection, domain: str, events: Sequence[Event], at: datetime) -> None:
    """In the order of the events: a disable drops what was found before it."""
    for event in events:
        if isinstance(event, JudgingBegan):
            await _began(connection, domain, event)
        elif isinstance(event, Settled):
            await _history(connection, domain, event, at)
            if event.cause.command == subjects.CMD_CERTIFICATE_SUBMIT:
                await _submission(connection, domain, event)
        elif isinstance(event, FindingsDropped):
            await connection.execute("update submissions set findings = '[]' where domain = $1", domain)


async def _began(connection: Connection, domain: str, event: JudgingBegan) -> None:
    cause = event.pending.cause
    await connection.execute(
        "insert into submissions (submission_id, domain, account) values ($1, $2, $3) on conflict do nothing",
        cause.command_id, domain, cause.account,
    )


async def _submission(connection: Connection, domain: str, event: Settled) -> None:
    await connection.execute(
        "insert into submissions (submission_id, domain, account, outcome, revision, findings)"
        " values ($1, $2, $3, $4, $5, $6) on conflict (submission_id) do update set outcome = excluded.outcome,"
        " revision = excluded.revision, findings = excluded.findings, updated_at = now()",
        event.cause.command_id, domain, event.cause.account, event.outcome.value, event.revision,
        FINDINGS.dump_json(list(event.findings)).decode(),
    )


async def _history(connection: Connection, domain: str, event: Settled, at: datetime) -> None:
    cause = event.cause
    await connection.execute(
        "insert into history (domain, account, command_id, command, source, outcome, codes, revision, received_at,"
        " settled_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        " on conflict do nothing",
        domain, cause.account, cause.command_id, cause.command, cause.source, event.outcome.value, codes(event),
        event.revision, cause.received_at, at,
    )
