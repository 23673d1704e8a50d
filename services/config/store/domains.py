"""Domains as the state machine knows them. Writers hold the domain's inbox key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.config.domain import names
from services.config.domain.bundle import desired
from services.config.domain.model import Cause, Certificate, Domain, Pending
from shared.contracts.domains import Origin, ServiceType, Settings
from shared.contracts.judging import JudgedPair
from shared.contracts.names import covered
from shared.storage.pool import Connection

TOMBSTONE_DAYS = 35
_FACTS = {
    "leaf_fingerprint",
    "subject",
    "sans",
    "issuer",
    "key_type",
    "key_bits",
    "not_before",
    "not_after",
}
COLUMNS = (
    "name, account, service_type, origin, trust, settings, removed, revision, "
    "registered_revision, registered_at,"
    " pending_request, pending_cause, suspended or exists (select from accounts a where "
    "a.account = domains.account and"
    " a.suspended) as suspended"
)
"""A suspension is a state of the account (rule E7): it holds for what is enabled before it reached
the domain's row."""
PAIR_COLUMNS = "domain, slot, submission_id, source, name, entry, trust, pair"
_SAVE = """
insert into domains (name, parent, account, service_type, origin, trust, settings, suspended,
  removed, removed_at,
    revision, registered_revision, registered_at, pending_id, pending_request, pending_cause,
    bundle, bundle_hash,
    bundle_epoch, served_until, served_source, mismatched)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, case when $9
then $10::timestamptz end, $11, $12, $13, $14, $15, $16, $17,
    $18, $19, $20, $21, $22)
on conflict (name) do update set
    account = excluded.account, service_type = excluded.service_type, origin = excluded.origin,
    trust = excluded.trust,
    settings = excluded.settings, suspended = excluded.suspended, removed = excluded.removed,
    removed_at = excluded.removed_at, revision = excluded.revision,
    live_revision = case when domains.registered_revision = excluded.registered_revision
    then domains.live_revision end,
    registered_revision = excluded.registered_revision, registered_at = excluded.registered_at,
    pending_id = excluded.pending_id, pending_request = excluded.pending_request,
    pending_cause = excluded.pending_cause, bundle = excluded.bundle, bundle_hash =
    excluded.bundle_hash,
    bundle_epoch = excluded.bundle_epoch, served_until = excluded.served_until,
    served_source = excluded.served_source, mismatched = excluded.mismatched
"""


async def load(connection: Connection, wanted: Sequence[str]) -> dict[str, Domain]:
    """By name; what was never registered is missing."""
    rows = await connection.fetch(
        f"select {COLUMNS} from domains where name = any($1::text[])", wanted
    )
    if not rows:
        return {}
    pairs = await connection.fetch(
        f"select {PAIR_COLUMNS} from pairs where domain = any($1::text[])"
        " order by domain, slot, position",
        [row["name"] for row in rows],
    )
    return {domain.name: domain for domain in assemble(rows, pairs)}


def assemble(rows: Iterable[asyncpg.Record], pairs: Iterable[asyncpg.Record]) -> list[Domain]:
    """Domains from rows of ``domains`` and of ``pairs`` (in order of their position)."""
    kept: dict[tuple[str, str], list[asyncpg.Record]] = defaultdict(list)
    for pair in pairs:
        kept[pair["domain"], pair["slot"]].append(pair)
    return [
        Domain(
            row["name"],
            row["account"],
            ServiceType(row["service_type"]),
            Origin.model_validate(row["origin"]),
            row["trust"],
            row["revision"],
            row["registered_revision"],
            row["registered_at"],
            settings=Settings.model_validate(row["settings"]),
            live=_certificate(kept[row["name"], "live"]),
            previous=_certificate(kept[row["name"], "previous"]),
            pending=_pending(row),
            suspended=row["suspended"],
            removed=row["removed"],
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Saved:
    """A domain as it was loaded (None: not there) and as it is to be kept."""

    before: Domain | None
    after: Domain


async def save(connection: Connection, saved: Sequence[Saved], at: datetime) -> None:
    """The rows with their bundles, and the pairs where they changed."""
    if not saved:
        return
    await connection.executemany(_SAVE, [_row(one.after, at) for one in saved])
    changed = [
        one.after
        for one in saved
        if ((one.before.live, one.before.previous) if one.before else (None, None))
        != (one.after.live, one.after.previous)
    ]
    if changed:
        await _save_pairs(connection, changed)


def _row(domain: Domain, at: datetime) -> tuple[Any, ...]:
    bundle = desired(domain)
    pending = domain.pending
    return (
        domain.name,
        names.parent(domain.name),
        domain.account,
        domain.service_type.value,
        domain.origin.model_dump(mode="json"),
        domain.trust,
        domain.settings.model_dump(mode="json"),
        domain.suspended,
        domain.removed,
        at,
        domain.revision,
        domain.registered_revision,
        domain.registered_at,
        pending.cause.command_id if pending else None,
        pending.request_id if pending else None,
        {**cause_out(pending.cause), "name": pending.name} if pending else None,
        bundle.payload,
        bundle.hash,
        bundle.epoch,
        domain.live.until if domain.live else None,
        domain.live.source if domain.live else None,
        domain.live is not None
        and not all(covered(pair.sans, domain.name) for pair in domain.live.pairs),
    )


async def pending_domain(connection: Connection, submission_id: str) -> str | None:
    """The domain whose pending submission this is."""
    found = await connection.fetchval(
        "select name from domains where pending_id = $1", submission_id
    )
    return None if found is None else str(found)


@dataclass(frozen=True)
class Overdue:
    """A pending submission, of a domain or a library entry, whose question was stored ``age``
    seconds ago."""

    domain: str
    submission_id: str
    age: float


async def overdue(connection: Connection, seconds: float) -> list[Overdue]:
    """Pending submissions whose question got its PubAck at least ``seconds`` ago."""
    rows = await connection.fetch(
        "select d.name, d.pending_id, extract(epoch from clock_timestamp() - "
        "o.sent_at)::float8 as age from"
        " (select name, pending_id, pending_request from domains where pending_id is not null "
        "union all"
        " select key, pending_id, pending_request from certificates where pending_id is not null) d"
        " join outbox o on o.message_id = d.pending_request"
        " where o.sent_at <= clock_timestamp() - make_interval(secs => $1)",
        seconds,
    )
    return [Overdue(row["name"], row["pending_id"], row["age"]) for row in rows]


async def converged(connection: Connection, domain: str, revision: int) -> None:
    """Every node serves ``revision``; one of an earlier registration does not count."""
    await connection.execute(
        "update domains set live_revision = $2 where name = $1 and registered_revision <= $2"
        " and coalesce(live_revision, 0) < $2",
        domain,
        revision,
    )


async def drop_tombstones(connection: Connection) -> None:
    await connection.execute(
        "delete from domains where removed and removed_at < now() - make_interval(days => $1)",
        TOMBSTONE_DAYS,
    )


async def _save_pairs(connection: Connection, changed: Sequence[Domain]) -> None:
    await connection.execute(
        "delete from pairs where domain = any($1::text[])", [domain.name for domain in changed]
    )
    rows = [
        (
            domain.name,
            slot,
            position,
            certificate.submission_id,
            pair.pair_id,
            pair.sealed_key.epoch,
            pair.leaf_fingerprint,
            pair.model_dump_json(),
            pair.model_dump_json(include=_FACTS),
            certificate.source,
            certificate.name,
            certificate.entry,
            certificate.trust,
        )
        for domain in changed
        for slot, certificate in (("live", domain.live), ("previous", domain.previous))
        if certificate
        for position, pair in enumerate(certificate.pairs)
    ]
    if rows:
        await connection.executemany(
            "insert into pairs (domain, slot, position, submission_id, pair_id, epoch, "
            "fingerprint, pair, facts,"
            " source, name, entry, trust) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, "
            "$11, $12, $13)",
            rows,
        )


def _certificate(rows: list[asyncpg.Record]) -> Certificate | None:
    if not rows:
        return None
    first = rows[0]
    pairs = tuple(JudgedPair.model_validate_json(row["pair"]) for row in rows)
    return Certificate(
        first["submission_id"],
        pairs,
        first["source"],
        first["name"],
        first["entry"],
        first["trust"],
    )


def _pending(row: asyncpg.Record) -> Pending | None:
    cause = row["pending_cause"]
    return (
        None
        if cause is None
        else Pending(cause_in(cause), row["pending_request"], cause.get("name", ""))
    )


def cause_out(cause: Cause) -> dict[str, Any]:
    return {
        "command_id": cause.command_id,
        "command": cause.command,
        "source": cause.source,
        "account": cause.account,
        "received_at": cause.received_at.isoformat(),
        "traceparent": cause.traceparent,
    }


def cause_in(kept: dict[str, Any]) -> Cause:
    return Cause(
        kept["command_id"],
        kept["command"],
        kept["source"],
        kept["account"],
        datetime.fromisoformat(kept["received_at"]),
        kept["traceparent"],
    )
