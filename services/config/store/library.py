"""The accounts' certificate libraries and roots. Writers of an entry hold its inbox key, who copies
it its row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from pydantic import TypeAdapter

from services.config.domain.library_entry import Entry, Event, Known, Resolved, Stored
from services.config.domain.model import Cause, Certificate, Pending, Where
from services.config.store import history
from services.config.store.domains import cause_in, cause_out
from shared.contracts.certificates import RootView
from shared.contracts.judging import JudgedPair
from shared.storage.pool import Connection, Pool

Named = tuple[str, str, str]
ROOTS = TypeAdapter(list[RootView])
COLUMNS = (
    "key, account, name, entry, trust, version, submission_id, stored_at, pending_request, "
    "pending_cause,"
    " pending_trust"
)


@dataclass(frozen=True)
class Follower:
    """A domain that follows a replaced entry. ``stored`` None: a later command replaced it again,
    or it is gone."""

    command_id: str
    domain: str
    entry: str
    cause: Cause
    stored: Certificate | None


async def load(connection: Connection | Pool, keys: Sequence[str]) -> dict[str, Entry]:
    rows = await connection.fetch(
        f"select {COLUMNS} from certificates where key = any($1::text[]) order by key",
        keys,
    )
    pairs = (
        await connection.fetch(
            "select key, pair from certificate_pairs where key = any($1::text[]) order by key, "
            "position",
            keys,
        )
        if rows
        else []
    )
    return assemble(rows, pairs)


async def lock(connection: Connection, keys: Sequence[str]) -> dict[str, Entry]:
    """As ``load``; nobody copies or changes the entries until the transaction ends. Rows are locked
    in order."""
    await connection.fetch(
        "select 1 from certificates where key = any($1::text[]) order by key for update", keys
    )
    return await load(connection, keys)


def assemble(rows: Iterable[asyncpg.Record], pairs: Iterable[asyncpg.Record]) -> dict[str, Entry]:
    kept: dict[str, list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        kept[pair["key"]].append(JudgedPair.model_validate_json(pair["pair"]))
    return {row["key"]: _entry(row, tuple(kept[row["key"]])) for row in rows}


async def save(connection: Connection, key: str, before: Entry | None, after: Entry | None) -> None:
    if after is None:
        await connection.execute("delete from certificates where key = $1", key)
        return
    pending, live = after.pending, after.certificate
    await connection.execute(
        "insert into certificates (key, account, name, entry, trust, version, submission_id, "
        "stored_at, pending_id,"
        " pending_request, pending_cause, pending_trust) values ($1, $2, $3, $4, $5, $6, $7, "
        "$8, $9, $10, $11, $12)"
        " on conflict (key) do update set entry = excluded.entry, trust = excluded.trust, "
        "version = excluded.version,"
        " submission_id = excluded.submission_id, stored_at = excluded.stored_at, pending_id = "
        "excluded.pending_id,"
        " pending_request = excluded.pending_request, pending_cause = excluded.pending_cause,"
        " pending_trust = excluded.pending_trust",
        key,
        after.account,
        after.name,
        after.id,
        after.trust,
        after.version,
        live.submission_id if live else None,
        after.stored_at,
        pending.cause.command_id if pending else None,
        pending.request_id if pending else None,
        cause_out(pending.cause) if pending else None,
        after.awaited if pending else None,
    )
    if live != (before.certificate if before else None):
        await connection.execute("delete from certificate_pairs where key = $1", key)
        await connection.executemany(
            "insert into certificate_pairs (key, position, pair_id, epoch, pair) values ($1, "
            "$2, $3, $4, $5)",
            [
                (key, position, pair.pair_id, pair.sealed_key.epoch, pair.model_dump_json())
                for position, pair in enumerate(live.pairs if live else ())
            ],
        )


async def record(
    connection: Connection, where: Where, key: str, events: Sequence[Event], at: datetime
) -> None:
    """History under no domain; what is still to be done on domains."""
    await history.write(connection, [history.Recorded(where, events)], at)
    for event in events:
        if isinstance(event, Resolved):
            await connection.executemany(
                "insert into deployments (command_id, domain, key, entry, follow, cause)"
                " values ($1, $2, $3, $4, false, $5) on conflict do nothing",
                [
                    (event.cause.command_id, name, key, event.entry, cause_out(event.cause))
                    for name in event.domains
                ],
            )
        elif isinstance(event, Stored) and event.replaces:
            await connection.execute(
                "insert into deployments (command_id, domain, key, entry, follow, cause)"
                " select $1, domain, $2, entry, true, $3 from pairs where slot = 'live' and "
                "position = 0"
                " and entry = $4 on conflict do nothing",
                event.cause.command_id,
                key,
                cause_out(event.cause),
                event.certificate.entry,
            )


async def known(
    connection: Connection, key: str, account: str, name: str, entry: str | None
) -> Known:
    """Asked after the entry's row is locked: whoever copied it before has committed."""
    unsettled = await connection.fetchval(
        "select exists (select from deployments d join inbox i on i.message_id = d.command_id "
        "join inbox_targets t"
        " on (t.stream, t.incarnation, t.sequence, t.key) = (i.stream, i.incarnation, "
        "i.sequence, d.domain)"
        " where d.key = $1 and not d.follow)",
        key,
    )
    users = (
        await connection.fetch(
            "select domain, bool_or(slot = 'live') as live from pairs where position = 0 and "
            "entry = $1 group by domain"
            " order by domain",
            entry,
        )
        if entry
        else []
    )
    taken = await taken_names(connection, [(account, name, "")], library=False)
    return Known(
        bool(taken),
        tuple(row["domain"] for row in users if row["live"]),
        tuple(row["domain"] for row in users if not row["live"]),
        bool(unsettled),
    )


async def taken_names(
    connection: Connection, wanted: Iterable[Named], *, library: bool = True
) -> set[Named]:
    """Of certificate names (account, name, domain), those that another domain's custom certificate
    has in the account, live, kept for a rollback or being judged, or (``library``) a library entry.
    Their locks are held until the transaction ends: two commands for one name see each other. Of
    several domains that want one name now the first gets it."""
    found: set[Named] = set()
    given: set[tuple[str, str]] = set()
    for account, name, domain in sorted(wanted):
        await connection.execute(
            "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"name {account}/{name}"
        )
        taken = await connection.fetchval(
            "select exists (select from pairs p join domains d on d.name = p.domain where "
            "p.name = $2 and"
            " p.position = 0 and p.source = 'custom' and d.account = $1 and d.name <> $3)"
            " or exists (select from domains where pending_id is not null and account = $1 and "
            "name <> $3"
            " and pending_cause ->> 'name' = $2)"
            " or ($4 and exists (select from certificates where account = $1 and name = $2))",
            account,
            name,
            domain,
            library,
        )
        if taken or (account, name) in given:
            found.add((account, name, domain))
        given.add((account, name))
    return found


async def deployable(
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Certificate | None]:
    """Deployments (command, domain) that the library has come to, with a copy of the certificate;
    the entries cannot change until the transaction ends, so that a replacement sees who uses
    them."""
    rows = await connection.fetch(
        "select d.command_id, d.domain, d.key, d.entry from deployments d join "
        "unnest($1::text[], $2::text[])"
        " as w (command_id, domain) using (command_id, domain) where not d.follow",
        [command for command, _ in wanted],
        [domain for _, domain in wanted],
    )
    keys = sorted({row["key"] for row in rows if row["entry"]})
    if keys:
        await connection.fetch(
            "select 1 from certificates where key = any($1::text[]) order by key for share", keys
        )
    entries = await load(connection, keys) if keys else {}
    return {
        (row["command_id"], row["domain"]): _copy(entries.get(row["key"]), row["entry"])
        for row in rows
    }


async def forget(connection: Connection, done: Sequence[tuple[str, str]]) -> None:
    """Deployments (command, domain) that came to their end."""
    await connection.execute(
        "delete from deployments d using unnest($1::text[], $2::text[]) as w (command_id, domain)"
        " where (d.command_id, d.domain) = (w.command_id, w.domain)",
        [command for command, _ in done],
        [domain for _, domain in done],
    )


async def following(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Domains (command, domain) that have to follow and have nothing pending, locked until the
    transaction ends."""
    rows = await connection.fetch(
        "select d.command_id, d.domain from deployments d where d.follow and not exists "
        "(select from domains o where"
        " o.name = d.domain and o.pending_id is not null) order by d.made_at, d.domain limit $1"
        " for update of d skip locked",
        limit,
    )
    return [(row["command_id"], row["domain"]) for row in rows]


async def followers(connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[Follower]:
    """What they follow, with the entries locked against a change; in the order of their
    commands."""
    rows = await connection.fetch(
        "select d.command_id, d.domain, d.key, d.entry, d.cause from deployments d join"
        " unnest($1::text[], $2::text[]) as w (command_id, domain) using (command_id, domain)"
        " order by d.made_at, d.domain",
        [command for command, _ in wanted],
        [domain for _, domain in wanted],
    )
    keys = sorted({row["key"] for row in rows})
    await connection.fetch(
        "select 1 from certificates where key = any($1::text[]) order by key for share", keys
    )
    entries = await load(connection, keys)
    found = []
    for row in rows:
        stored = _copy(entries.get(row["key"]), row["entry"])
        current = stored if stored and stored.submission_id == row["command_id"] else None
        found.append(
            Follower(
                row["command_id"], row["domain"], row["entry"], cause_in(row["cause"]), current
            )
        )
    return found


async def pending_key(connection: Connection, submission_id: str) -> str | None:
    """The entry whose pending submission this is."""
    found = await connection.fetchval(
        "select key from certificates where pending_id = $1", submission_id
    )
    return None if found is None else str(found)


async def nudge(pool: Pool) -> bool:
    """Readies what waits for the library and need not any more; whether there was any. Normally
    whoever ends the wait wakes the waiter; this catches the race in which it checked before the
    waiter was marked held."""
    done = await pool.fetch(
        "update inbox_targets t set state = 'ready' where t.state = 'held' and ("
        " exists (select from deployments d join inbox i on i.message_id = d.command_id where "
        "d.domain = t.key and"
        " not d.follow and (i.stream, i.incarnation, i.sequence) = (t.stream, t.incarnation, "
        "t.sequence)"
        " and not exists (select from domains o where o.name = t.key and o.pending_id is not null))"
        " or (starts_with(t.key, '@') and not exists (select from certificates c where c.key = "
        "t.key and"
        " c.pending_id is not null))) returning 1"
    )
    await pool.execute(
        "delete from deployments d where not d.follow and d.made_at < now() - interval '1 "
        "minute' and not exists"
        " (select from inbox i join inbox_targets t on (t.stream, t.incarnation, t.sequence) = "
        "(i.stream,"
        " i.incarnation, i.sequence) where i.message_id = d.command_id and t.key = d.domain)"
    )
    return bool(done)


async def roots_of(connection: Connection | Pool, accounts: Sequence[str]) -> dict[str, list[str]]:
    """By account, each root in PEM."""
    rows = await connection.fetch(
        "select account, roots from roots where account = any($1::text[])", accounts
    )
    return {row["account"]: [root["pem"] for root in row["roots"]] for row in rows}


async def save_roots(
    connection: Connection, account: str, roots: Sequence[RootView], at: datetime
) -> None:
    await connection.execute(
        "insert into roots (account, roots, set_at) values ($1, $2, $3) on conflict (account) "
        "do update set"
        " roots = excluded.roots, set_at = excluded.set_at",
        account,
        ROOTS.dump_python(list(roots), mode="json"),
        at,
    )


def _entry(row: asyncpg.Record, pairs: tuple[JudgedPair, ...]) -> Entry:
    certificate = (
        Certificate(row["submission_id"], pairs, "stored", row["name"], row["entry"], row["trust"])
        if pairs
        else None
    )
    cause: dict[str, Any] | None = row["pending_cause"]
    pending = (
        None if cause is None else Pending(cause_in(cause), row["pending_request"], row["name"])
    )
    return Entry(
        row["account"],
        row["name"],
        row["trust"],
        row["version"],
        certificate,
        row["stored_at"],
        pending,
        row["pending_trust"] or "public",
    )


def _copy(entry: Entry | None, identity: str | None) -> Certificate | None:
    """The certificate of the entry that was meant: a name can be given again after a deletion."""
    return (
        entry.certificate
        if entry is not None and identity is not None and entry.id == identity
        else None
    )
