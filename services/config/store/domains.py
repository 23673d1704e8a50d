"""Domains as the state machine knows them. Writers hold the domain's inbox key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from services.config.domain import names
from services.config.domain.bundle import build_bundle
from services.config.domain.model import Cause, Certificate, Domain, PendingSubmission
from services.config.domain.views import read_origin, read_settings
from shared.contracts.domains import ServiceType
from shared.contracts.judging import JudgedPair
from shared.contracts.names import covered
from shared.storage.pool import Connection, Pool

TOMBSTONE_DAYS = 35
_FACT_FIELDS = {
    "leaf_fingerprint",
    "subject",
    "sans",
    "issuer",
    "key_type",
    "key_bits",
    "not_before",
    "not_after",
}
# A suspension is a state of the account (rule E7): it holds for what is enabled before it reached
# the domain's row.
COLUMNS = """
name, account, service_type, origin::text as origin, trust, settings::text as settings, removed,
revision, registered_revision, registered_at, pending_request, pending_cause, suspended or exists (
    select from accounts a where a.account = domains.account and a.suspended) as suspended
"""
PAIR_COLUMNS = "domain, slot, submission_id, source, name, entry, trust, pair"
PAIRS_OF_DOMAINS = f"""
select {PAIR_COLUMNS} from pairs where domain = any($1::text[]) order by domain, slot, position
"""
# ``live_revision`` belongs to a registration: a new one begins without it.
_SAVE = """
insert into domains (name, parent, account, service_type, origin, trust, settings, suspended,
    removed, removed_at, revision, registered_revision, registered_at, pending_id, pending_request,
    pending_cause, bundle, bundle_hash, bundle_epoch, served_until, served_source, mismatched)
values ($1, $2, $3, $4, $5::text::jsonb, $6, $7::text::jsonb, $8, $9,
    case when $9 then $10::timestamptz end, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
    $22)
on conflict (name) do update set
    account = excluded.account, service_type = excluded.service_type, origin = excluded.origin,
    trust = excluded.trust, settings = excluded.settings, suspended = excluded.suspended,
    removed = excluded.removed, removed_at = excluded.removed_at, revision = excluded.revision,
    live_revision = case when domains.registered_revision = excluded.registered_revision
        then domains.live_revision end,
    registered_revision = excluded.registered_revision, registered_at = excluded.registered_at,
    pending_id = excluded.pending_id, pending_request = excluded.pending_request,
    pending_cause = excluded.pending_cause, bundle = excluded.bundle,
    bundle_hash = excluded.bundle_hash, bundle_epoch = excluded.bundle_epoch,
    served_until = excluded.served_until, served_source = excluded.served_source,
    mismatched = excluded.mismatched
"""
_SAVE_PAIR = """
insert into pairs (domain, slot, position, submission_id, pair_id, epoch, fingerprint, pair, facts,
    source, name, entry, trust)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_FIND_PENDING = """
select name as key from domains where pending_id = $1
union all
select key from certificates where pending_id = $1
"""
_OVERDUE = """
select p.key, p.pending_id, extract(epoch from clock_timestamp() - o.sent_at)::float8 as age
from (
    select name as key, pending_id, pending_request from domains where pending_id is not null
    union all
    select key, pending_id, pending_request from certificates where pending_id is not null
) p join outbox o on o.message_id = p.pending_request
where o.sent_at <= clock_timestamp() - make_interval(secs => $1)
"""
_RECORD_CONVERGED = """
update domains set live_revision = $2
where name = $1 and registered_revision <= $2 and coalesce(live_revision, 0) < $2
"""
_DELETE_TOMBSTONES = """
delete from domains where removed and removed_at < now() - make_interval(days => $1)
"""


async def load_domains(connection: Connection, wanted: Sequence[str]) -> dict[str, Domain]:
    """Return domains by name; one that was never registered is missing."""
    rows = await connection.fetch(
        f"select {COLUMNS} from domains where name = any($1::text[])", wanted
    )
    if not rows:
        return {}
    pairs = await connection.fetch(PAIRS_OF_DOMAINS, [row["name"] for row in rows])
    return {domain.name: domain for domain in build_domains(rows, pairs)}


def build_domains(rows: Iterable[asyncpg.Record], pairs: Iterable[asyncpg.Record]) -> list[Domain]:
    """Build domains from rows of ``domains`` and of ``pairs``, the latter in order of position."""
    pairs_of: dict[tuple[str, str], list[asyncpg.Record]] = defaultdict(list)
    for pair in pairs:
        pairs_of[pair["domain"], pair["slot"]].append(pair)
    domains = []
    for row in rows:
        name = row["name"]
        domain = Domain(
            name,
            row["account"],
            ServiceType(row["service_type"]),
            read_origin(row["origin"]),
            row["trust"],
            row["revision"],
            row["registered_revision"],
            row["registered_at"],
            settings=read_settings(row["settings"]),
            live=_build_certificate(pairs_of.get((name, "live"))),
            previous=_build_certificate(pairs_of.get((name, "previous"))),
            pending=_build_pending(row),
            suspended=row["suspended"],
            removed=row["removed"],
        )
        domains.append(domain)
    return domains


async def save_domains(
    connection: Connection, changes: Sequence[tuple[Domain | None, Domain]], at: datetime
) -> None:
    """Save domains with their bundles, and the pairs where they changed.

    ``changes``: each domain as it was loaded (None: it was not there) and as it is now."""
    if not changes:
        return
    await connection.executemany(_SAVE, [_domain_row(after, at) for _, after in changes])
    with_other_pairs = []
    for before, after in changes:
        pairs_before = (None, None) if before is None else (before.live, before.previous)
        if pairs_before != (after.live, after.previous):
            with_other_pairs.append(after)
    if with_other_pairs:
        await _save_pairs(connection, with_other_pairs)


async def find_pending_key(connection: Connection, submission_id: str) -> str | None:
    """Return the key of the domain or library entry that a submission is pending for."""
    key = await connection.fetchval(_FIND_PENDING, submission_id)
    return None if key is None else str(key)


@dataclass(frozen=True)
class OverdueSubmission:
    """A pending submission of a domain or library entry. ``age``: seconds since the PubAck of its
    question."""

    key: str
    submission_id: str
    age: float


async def load_overdue(pool: Pool, seconds: float) -> list[OverdueSubmission]:
    """Return pending submissions whose question got its PubAck at least ``seconds`` ago."""
    rows = await pool.fetch(_OVERDUE, seconds)
    return [OverdueSubmission(row["key"], row["pending_id"], row["age"]) for row in rows]


async def record_converged(pool: Pool, domain: str, revision: int) -> None:
    """Record that every node serves ``revision``. One of an earlier registration does not count."""
    await pool.execute(_RECORD_CONVERGED, domain, revision)


async def delete_old_tombstones(pool: Pool) -> None:
    """Delete what is left of domains that were removed more than 35 days ago."""
    await pool.execute(_DELETE_TOMBSTONES, TOMBSTONE_DAYS)


def encode_cause(cause: Cause) -> dict[str, Any]:
    """Return a cause as the JSON columns keep it."""
    return {
        "command_id": cause.command_id,
        "command": cause.command,
        "source": cause.source,
        "account": cause.account,
        "received_at": cause.received_at.isoformat(),
        "traceparent": cause.traceparent,
    }


def decode_cause(stored: dict[str, Any]) -> Cause:
    """Return the cause of a JSON column."""
    return Cause(
        stored["command_id"],
        stored["command"],
        stored["source"],
        stored["account"],
        datetime.fromisoformat(stored["received_at"]),
        stored["traceparent"],
    )


def _domain_row(domain: Domain, at: datetime) -> tuple[Any, ...]:
    bundle = build_bundle(domain)
    pending_id = None
    pending_request = None
    pending_cause = None
    if domain.pending is not None:
        pending_id = domain.pending.cause.command_id
        pending_request = domain.pending.request_id
        pending_cause = {**encode_cause(domain.pending.cause), "name": domain.pending.name}
    served_until = None
    served_source = None
    mismatched = False
    if domain.live is not None:
        served_until = domain.live.expires_at
        served_source = domain.live.source
        mismatched = not all(covered(pair.sans, domain.name) for pair in domain.live.pairs)
    return (
        domain.name,
        names.parent_name(domain.name),
        domain.account,
        domain.service_type.value,
        domain.origin.model_dump_json(),
        domain.trust,
        domain.settings.model_dump_json(),
        domain.suspended,
        domain.removed,
        at,
        domain.revision,
        domain.registered_revision,
        domain.registered_at,
        pending_id,
        pending_request,
        pending_cause,
        bundle.payload,
        bundle.hash,
        bundle.epoch,
        served_until,
        served_source,
        mismatched,
    )


async def _save_pairs(connection: Connection, domains: Sequence[Domain]) -> None:
    await connection.execute(
        "delete from pairs where domain = any($1::text[])", [domain.name for domain in domains]
    )
    rows: list[tuple[Any, ...]] = []
    for domain in domains:
        rows += _pair_rows(domain.name, "live", domain.live)
        rows += _pair_rows(domain.name, "previous", domain.previous)
    if rows:
        await connection.executemany(_SAVE_PAIR, rows)


def _pair_rows(domain: str, slot: str, certificate: Certificate | None) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    if certificate is None:
        return rows
    for position, pair in enumerate(certificate.pairs):
        rows.append(
            (
                domain,
                slot,
                position,
                certificate.submission_id,
                pair.pair_id,
                pair.sealed_key.epoch,
                pair.leaf_fingerprint,
                pair.model_dump_json(),
                pair.model_dump_json(include=_FACT_FIELDS),
                certificate.source,
                certificate.name,
                certificate.entry,
                certificate.trust,
            )
        )
    return rows


def _build_certificate(rows: Sequence[asyncpg.Record] | None) -> Certificate | None:
    if not rows:
        return None
    first = rows[0]
    pairs = [JudgedPair.model_validate_json(row["pair"]) for row in rows]
    return Certificate(
        first["submission_id"],
        tuple(pairs),
        first["source"],
        first["name"],
        first["entry"],
        first["trust"],
    )


def _build_pending(row: asyncpg.Record) -> PendingSubmission | None:
    cause = row["pending_cause"]
    if cause is None:
        return None
    return PendingSubmission(decode_cause(cause), row["pending_request"], cause.get("name", ""))
