"""History: how every command ended at each of its places, written with the change itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from services.config.messages import codes
from services.config.orders import Event, FindingsDropped, Settled
from services.config.state import Where
from shared.contracts.findings import Finding
from shared.storage.pool import Connection

FINDINGS: Final = TypeAdapter(list[Finding])


@dataclass(frozen=True)
class Recorded:
    """What happened at one place, in order."""

    where: Where
    events: Sequence[Event]


@dataclass(frozen=True)
class Ended:
    """``dropped``: its findings went with a disable that came after it."""

    where: Where
    settled: Settled
    dropped: bool = False


async def write(connection: Connection, recorded: Sequence[Recorded], at: datetime) -> None:
    """A disable drops what was found on its domain before it (rule B3): codes stay."""
    bare = [one.where.domain for one in recorded if any(isinstance(event, FindingsDropped) for event in one.events)]
    if bare:
        await connection.execute(
            "update history set findings = '[]' where domain = any($1::text[]) and findings <> '[]'", bare
        )
    await settle(connection, [ended for one in recorded for ended in _ended(one)], at)


async def settle(connection: Connection, ended: Sequence[Ended], at: datetime) -> None:
    """Each place has a command once."""
    if not ended:
        return
    await connection.executemany(
        "insert into history (domain, certificate, account, command_id, command, source, outcome, codes, findings,"
        " revision, received_at, settled_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
        " on conflict do nothing", [_row(one, at) for one in ended],
    )


def _ended(one: Recorded) -> list[Ended]:
    drops = [place for place, event in enumerate(one.events) if isinstance(event, FindingsDropped)]
    last = drops[-1] if drops else -1
    return [
        Ended(one.where, event, place < last) for place, event in enumerate(one.events) if isinstance(event, Settled)
    ]


def _row(one: Ended, at: datetime) -> tuple[object, ...]:
    cause, settled = one.settled.cause, one.settled
    found = [] if one.dropped else list(settled.findings)
    return (
        one.where.domain or "", one.where.certificate, cause.account, cause.command_id, cause.command, cause.source,
        settled.outcome.value, codes(settled), FINDINGS.dump_json(found).decode(), settled.revision,
        cause.received_at, at,
    )
