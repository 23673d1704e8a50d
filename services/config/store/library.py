"""The accounts' certificate libraries, and what library commands still have to do on domains.

Whoever changes an entry holds its inbox key and locks its row. Whoever copies it to a domain locks
the row for share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from pydantic import TypeAdapter

from services.config.domain.events import DeploymentResolved, Stored
from services.config.domain.model import (
    LIBRARY_PREFIX,
    Cause,
    Certificate,
    CommandContext,
    LibraryEntry,
    PendingSubmission,
    split_library_key,
)
from services.config.store.domains import decode_cause, encode_cause
from shared.contracts.certificates import RootView
from shared.contracts.judging import JudgedPair
from shared.storage.pool import Connection, Pool

ROOTS = TypeAdapter(list[RootView])
COLUMNS = """
key, account, name, entry, trust, version, submission_id, stored_at, pending_request,
pending_cause, pending_trust
"""
PAIRS_OF_ENTRIES = """
select key, pair from certificate_pairs where key = any($1::text[]) order by key, position
"""
_LOCK_FOR_CHANGE = """
select 1 from certificates where key = any($1::text[]) order by key for update
"""
_LOCK_FOR_COPY = """
select 1 from certificates where key = any($1::text[]) order by key for share
"""
_SAVE = """
insert into certificates (key, account, name, entry, trust, version, submission_id, stored_at,
    pending_id, pending_request, pending_cause, pending_trust)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
on conflict (key) do update set entry = excluded.entry, trust = excluded.trust,
    version = excluded.version, submission_id = excluded.submission_id,
    stored_at = excluded.stored_at, pending_id = excluded.pending_id,
    pending_request = excluded.pending_request, pending_cause = excluded.pending_cause,
    pending_trust = excluded.pending_trust
"""
_SAVE_PAIR = """
insert into certificate_pairs (key, position, pair_id, epoch, pair) values ($1, $2, $3, $4, $5)
"""
_RECORD_DEPLOYMENT = """
insert into deployments (command_id, domain, key, entry, follow, cause)
values ($1, $2, $3, $4, false, $5) on conflict do nothing
"""
_RECORD_FOLLOWERS = """
insert into deployments (command_id, domain, key, entry, follow, cause)
select $1, domain, $2, entry, true, $3 from pairs
where slot = 'live' and position = 0 and entry = $4
on conflict do nothing
"""
# A deployment has ended on a domain when the command's target there is gone from the inbox.
_HAS_UNSETTLED = """
select exists (
    select from deployments d
    join inbox i on i.message_id = d.command_id
    join inbox_targets t on (t.stream, t.incarnation, t.sequence, t.key) =
        (i.stream, i.incarnation, i.sequence, d.domain)
    where d.key = $1 and not d.follow)
"""
_USERS = """
select domain, bool_or(slot = 'live') as live from pairs where position = 0 and entry = $1
group by domain order by domain
"""
_LOCK_NAME = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_NAME_IS_TAKEN = """
select exists (
    select from pairs p join domains d on d.name = p.domain
    where p.name = $2 and p.position = 0 and p.source = 'custom' and d.account = $1
        and d.name <> $3)
or exists (
    select from domains where pending_id is not null and account = $1 and name <> $3
        and pending_cause ->> 'name' = $2)
or ($4 and exists (select from certificates where account = $1 and name = $2))
"""
_DEPLOYABLE = """
select d.command_id, d.domain, d.key, d.entry from deployments d
join unnest($1::text[], $2::text[]) as w (command_id, domain) using (command_id, domain)
where not d.follow
"""
_FORGET_DEPLOYMENTS = """
delete from deployments d using unnest($1::text[], $2::text[]) as w (command_id, domain)
where (d.command_id, d.domain) = (w.command_id, w.domain)
"""
# A domain with a pending submission follows after its verdict, as any later command waits for it.
_LOCK_FOLLOWERS = """
select d.command_id, d.domain from deployments d
where d.follow and not exists (
    select from domains o where o.name = d.domain and o.pending_id is not null)
order by d.made_at, d.domain limit $1 for update of d skip locked
"""
_FOLLOWERS = """
select d.command_id, d.domain, d.key, d.entry, d.cause from deployments d
join unnest($1::text[], $2::text[]) as w (command_id, domain) using (command_id, domain)
order by d.made_at, d.domain
"""
_RELEASE_STUCK = """
update inbox_targets t set state = 'ready' where t.state = 'held' and (
    exists (
        select from deployments d join inbox i on i.message_id = d.command_id
        where d.domain = t.key and not d.follow and
            (i.stream, i.incarnation, i.sequence) = (t.stream, t.incarnation, t.sequence)
            and not exists (
                select from domains o where o.name = t.key and o.pending_id is not null))
    or (starts_with(t.key, $1) and not exists (
        select from certificates c where c.key = t.key and c.pending_id is not null)))
returning 1
"""
_DELETE_ENDED_DEPLOYMENTS = """
delete from deployments d where not d.follow and d.made_at < now() - interval '1 minute'
    and not exists (
        select from inbox i join inbox_targets t on (t.stream, t.incarnation, t.sequence) =
            (i.stream, i.incarnation, i.sequence)
        where i.message_id = d.command_id and t.key = d.domain)
"""
_SAVE_ROOTS = """
insert into roots (account, roots, set_at) values ($1, $2, $3)
on conflict (account) do update set roots = excluded.roots, set_at = excluded.set_at
"""


@dataclass(frozen=True)
class FollowingDomain:
    """A domain that follows a replaced entry.

    ``stored`` None: a later command replaced the entry again, or it is gone."""

    command_id: str
    domain: str
    entry: str
    cause: Cause
    stored: Certificate | None


async def load_entries(
    connection: Connection | Pool, keys: Sequence[str]
) -> dict[str, LibraryEntry]:
    """Return entries by key; one that does not exist is missing."""
    rows = await connection.fetch(
        f"select {COLUMNS} from certificates where key = any($1::text[]) order by key", keys
    )
    if not rows:
        return {}
    return build_entries(rows, await connection.fetch(PAIRS_OF_ENTRIES, keys))


async def lock_entries(connection: Connection, keys: Sequence[str]) -> dict[str, LibraryEntry]:
    """Return entries by key, locked until the transaction ends. Rows are locked in order."""
    await connection.fetch(_LOCK_FOR_CHANGE, keys)
    return await load_entries(connection, keys)


def build_entries(
    rows: Iterable[asyncpg.Record], pairs: Iterable[asyncpg.Record]
) -> dict[str, LibraryEntry]:
    """Build entries from rows of ``certificates`` and of ``certificate_pairs``."""
    pairs_of: dict[str, list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        pairs_of[pair["key"]].append(JudgedPair.model_validate_json(pair["pair"]))
    entries = {}
    for row in rows:
        entries[row["key"]] = _build_entry(row, pairs_of.get(row["key"], []))
    return entries


async def save_entry(
    connection: Connection, key: str, before: LibraryEntry | None, after: LibraryEntry | None
) -> None:
    """Save an entry, and its pairs where they changed; ``after`` None deletes it."""
    if after is None:
        await connection.execute("delete from certificates where key = $1", key)
        return
    pending_id = None
    pending_request = None
    pending_cause = None
    pending_trust = None
    if after.pending is not None:
        pending_id = after.pending.cause.command_id
        pending_request = after.pending.request_id
        pending_cause = encode_cause(after.pending.cause)
        pending_trust = after.pending_trust
    certificate = after.certificate
    await connection.execute(
        _SAVE,
        key,
        after.account,
        after.name,
        after.id,
        after.trust,
        after.version,
        None if certificate is None else certificate.submission_id,
        after.stored_at,
        pending_id,
        pending_request,
        pending_cause,
        pending_trust,
    )
    certificate_before = None if before is None else before.certificate
    if certificate == certificate_before:
        return
    await connection.execute("delete from certificate_pairs where key = $1", key)
    rows = []
    for position, pair in enumerate(certificate.pairs if certificate else ()):
        row = (key, position, pair.pair_id, pair.sealed_key.epoch, pair.model_dump_json())
        rows.append(row)
    await connection.executemany(_SAVE_PAIR, rows)


async def record_deployment(connection: Connection, key: str, event: DeploymentResolved) -> None:
    """Record that each domain of a deployment may take its turn."""
    cause = encode_cause(event.cause)
    rows = []
    for domain in event.domains:
        rows.append((event.cause.command_id, domain, key, event.entry, cause))
    await connection.executemany(_RECORD_DEPLOYMENT, rows)


async def record_followers(connection: Connection, key: str, event: Stored) -> None:
    """Record every domain that serves a replaced entry: it is to follow."""
    cause = encode_cause(event.cause)
    await connection.execute(
        _RECORD_FOLLOWERS, event.cause.command_id, key, cause, event.certificate.entry
    )


async def load_entry_context(
    connection: Connection, key: str, entry: LibraryEntry | None, at: datetime
) -> CommandContext:
    """Return what the commands of an entry need to know.

    Call it after the entry's row is locked: whoever copied the entry before has committed then."""
    unsettled = await connection.fetchval(_HAS_UNSETTLED, key)
    users = []
    kept_by = []
    if entry is not None and entry.id is not None:
        for row in await connection.fetch(_USERS, entry.id):
            if row["live"]:
                users.append(row["domain"])
            else:
                kept_by.append(row["domain"])
    account, name = split_library_key(key)
    taken = await lock_taken_names(connection, [(account, name, "")], library=False)
    return CommandContext(
        at,
        taken=frozenset({(account, name)}) if taken else frozenset(),
        users=tuple(users),
        kept_by=tuple(kept_by),
        unsettled=bool(unsettled),
    )


async def lock_taken_names(
    connection: Connection, wanted: Iterable[tuple[str, str, str]], *, library: bool = True
) -> set[tuple[str, str, str]]:
    """Return those of ``wanted`` (account, certificate name, domain) whose name is taken.

    A name is taken when a custom certificate of another domain of the account has it, live, kept
    for a rollback or being judged, or (``library``) a library entry."""
    # Invariant: of all custom certificates and library entries of an account, at most one has a
    # name (rule B10), although domains and entries are decided under different keys. The keys order
    # nothing here, so each name has a lock of its own until the transaction ends. The later of two
    # commands for one name waits at the lock and then reads what the earlier one committed. Names
    # are locked in sorted order, which keeps two transactions with the same names from waiting for
    # each other. Within one transaction nothing is written yet when names are read: of several
    # domains that want one name now, the first in order gets it, and ``given`` refuses the others.
    # A domain never stands in its own way: it may give its name to its next certificate.
    found: set[tuple[str, str, str]] = set()
    given: set[tuple[str, str]] = set()
    for account, name, domain in sorted(wanted):
        await connection.execute(_LOCK_NAME, f"name {account}/{name}")
        taken = await connection.fetchval(_NAME_IS_TAKEN, account, name, domain, library)
        if taken or (account, name) in given:
            found.add((account, name, domain))
        given.add((account, name))
    return found


async def load_deployable(
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Certificate | None]:
    """Return those of ``wanted`` (command id, domain) that the library has come to, each with a
    copy of the certificate; None where there is none.

    The entries are locked against a change until the transaction ends, so that whoever replaces one
    sees every domain that uses it."""
    rows = await connection.fetch(_DEPLOYABLE, *_columns(wanted))
    keys = sorted({row["key"] for row in rows if row["entry"]})
    entries = {}
    if keys:
        await connection.fetch(_LOCK_FOR_COPY, keys)
        entries = await load_entries(connection, keys)
    deployable = {}
    for row in rows:
        certificate = _copy_certificate(entries.get(row["key"]), row["entry"])
        deployable[row["command_id"], row["domain"]] = certificate
    return deployable


async def forget_deployments(connection: Connection, ended: Sequence[tuple[str, str]]) -> None:
    """Forget deployments (command id, domain) that came to their end: a deletion of the entry does
    not wait for them any more."""
    if ended:
        await connection.execute(_FORGET_DEPLOYMENTS, *_columns(ended))


async def lock_followers(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Return (command id, domain) of domains that have to follow an entry and have nothing pending,
    locked until the transaction ends."""
    rows = await connection.fetch(_LOCK_FOLLOWERS, limit)
    return [(row["command_id"], row["domain"]) for row in rows]


async def load_followers(
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> list[FollowingDomain]:
    """Return what each of ``wanted`` (command id, domain) follows, in the order of the commands.

    The entries are locked against a change."""
    rows = await connection.fetch(_FOLLOWERS, *_columns(wanted))
    keys = sorted({row["key"] for row in rows})
    await connection.fetch(_LOCK_FOR_COPY, keys)
    entries = await load_entries(connection, keys)
    followers = []
    for row in rows:
        stored = _copy_certificate(entries.get(row["key"]), row["entry"])
        if stored is not None and stored.submission_id != row["command_id"]:
            stored = None
        follower = FollowingDomain(
            row["command_id"], row["domain"], row["entry"], decode_cause(row["cause"]), stored
        )
        followers.append(follower)
    return followers


async def release_stuck_commands(pool: Pool) -> bool:
    """Make ready what waits for the library and need not any more; return whether there was any.

    Normally whoever ends the wait wakes the waiter. This catches the race in which it looked before
    the waiter was marked as held."""
    released = await pool.fetch(_RELEASE_STUCK, LIBRARY_PREFIX)
    await pool.execute(_DELETE_ENDED_DEPLOYMENTS)
    return bool(released)


async def load_roots(
    connection: Connection | Pool, accounts: Sequence[str]
) -> dict[str, list[str]]:
    """Return the accounts' own roots in PEM; an account without roots is missing."""
    rows = await connection.fetch(
        "select account, roots from roots where account = any($1::text[])", accounts
    )
    return {row["account"]: [root["pem"] for root in row["roots"]] for row in rows}


async def save_roots(
    connection: Connection, account: str, roots: Sequence[RootView], at: datetime
) -> None:
    """Replace an account's own roots."""
    encoded = ROOTS.dump_python(list(roots), mode="json")
    await connection.execute(_SAVE_ROOTS, account, encoded, at)


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [command_id for command_id, _ in pairs], [domain for _, domain in pairs]


def _build_entry(row: asyncpg.Record, pairs: Sequence[JudgedPair]) -> LibraryEntry:
    certificate = None
    if pairs:
        certificate = Certificate(
            row["submission_id"], tuple(pairs), "stored", row["name"], row["entry"], row["trust"]
        )
    pending = None
    if row["pending_cause"] is not None:
        cause = decode_cause(row["pending_cause"])
        pending = PendingSubmission(cause, row["pending_request"], row["name"])
    return LibraryEntry(
        row["account"],
        row["name"],
        row["trust"],
        row["version"],
        certificate,
        row["stored_at"],
        pending,
        row["pending_trust"] or "public",
    )


def _copy_certificate(entry: LibraryEntry | None, entry_id: str | None) -> Certificate | None:
    """Return the certificate of the entry that was meant: a name can be given again after a
    deletion."""
    if entry is None or entry_id is None or entry.id != entry_id:
        return None
    return entry.certificate
