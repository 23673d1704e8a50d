"""How fast one config process carries out commands, and how fast it reads lists of 100,000 domains.

Commands: out of a filled stream, through the inbox, the decision and PostgreSQL to their events,
stored in EVENTS with the PubAck seen. Every one of them changes its domain. Beside it, in the same
run and on the same PostgreSQL: the bare transaction of a change (lock a row, update it, insert one
outbox row), on as many connections as config works on. The same with the commands coming meanwhile,
published one by one; beside it the publishing alone, which costs the broker an fsync each. Pages:
every kind of list, 500 rows each, one after the other, from the question's publish to the answer's
bytes; beside it the same keys read by bare SQL.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from bench.report import Result, main
from shared import catalogue
from shared.contracts.commands import ChangeSettings, RedirectChange, RegisterDomain
from shared.contracts.domains import DomainState, Origin, RedirectMode, ServiceType
from shared.contracts.queries import DomainList, ListDomains
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.observability import logs
from tests.integration.config.harness import ConfigHarness, config_harness
from tests.support.factories import ACCOUNT

SHARE = 0.5
PAGE_MS = 50
LISTED = 100_000
CONNECTIONS = 3
"""One each for what config does at once: storing what comes, deciding, marking what was sent."""
IN_FLIGHT = 200
CHANGES = (
    (RedirectMode.TO_HTTPS, 301),
    (RedirectMode.TO_HTTPS, 308),
    (RedirectMode.OFF, 307),
    (RedirectMode.OFF, 302),
)
_RAW_TABLES = (
    "create table if not exists raw_domains (name text primary key, revision bigint, bundle bytea);"
    "create table if not exists raw_outbox (id bigint generated always as identity primary "
    "key, body bytea);"
    "insert into raw_domains select 'd' || n, 0, repeat('x', 600)::bytea from "
    "generate_series(0, 999) n"
    " on conflict do nothing"
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured how often."""

    runs: int
    domains: int
    registrations: int
    raw: int
    rounds: int


async def measure(quick: bool) -> list[Result]:
    logs.setup("bench", "error")  # on stderr: stdout is for the results
    sizes = Sizes(5, 250, 1_000, 2_000, 5) if quick else Sizes(9, 250, 2_000, 4_000, 20)
    with tempfile.TemporaryDirectory(prefix="edgetls-bench-") as folder:
        async with config_harness(Path(folder)) as harness:
            await harness.start(LOG_LEVEL="error")
            rates = await _commands(harness, sizes)
            await seed(harness, LISTED)
            pages = sorted(await _pages(harness, sizes.rounds))
            bare = statistics.median(await _bare_pages(harness, sizes.rounds))
    p99 = pages[min(len(pages) - 1, int(len(pages) * 0.99))]
    beside = f"beside bare transactions on {CONNECTIONS} connections"
    return [
        Result.of(
            "config",
            f"settings changed, events stored, {beside}",
            rates.changes,
            "commands/s",
            rates.raw,
            at_least=rates.raw * SHARE,
        ),
        Result.of(
            "config",
            f"domains registered, events stored, {beside}",
            rates.registrations,
            "commands/s",
            rates.raw,
        ),
        Result.of(
            "config",
            "settings changed as they are published, beside the publishing alone",
            rates.meanwhile,
            "commands/s",
            rates.published,
        ),
        Result.of(
            "config",
            "a page of 500 of 100,000 domains, any filter, p50",
            statistics.median(pages),
            "ms",
            bare,
        ),
        Result.of(
            "config",
            "a page of 500 of 100,000 domains, any filter, p99",
            p99,
            "ms",
            bare,
            at_most=PAGE_MS,
        ),
    ]


@dataclass(frozen=True)
class Rates:
    """A second, medians. ``published``: stored by the broker, with config at rest."""

    changes: float
    registrations: float
    meanwhile: float
    published: float
    raw: float


async def _commands(harness: ConfigHarness, sizes: Sizes) -> Rates:
    names = [f"served{n}.f{n % 50}.bench.test" for n in range(sizes.domains)]
    await _done(harness, (await _published(harness, [_registration(name) for name in names]))[1])
    await _enable(harness, names)
    # The stage hears every event, which is none of config's work: a fresh connection hears nothing.
    await harness.clients["platform"].close()
    harness.clients["platform"] = await harness.cluster.client("platform")
    found: dict[str, list[float]] = {
        "changes": [],
        "registrations": [],
        "meanwhile": [],
        "published": [],
        "raw": [],
    }
    for run in range(sizes.runs):
        changes = [_change(name, *way) for way in CHANGES * 2 for name in names]
        published, rate = await _drained(harness, changes)
        found["published"].append(published)
        found["changes"].append(rate)
        fresh = [
            _registration(f"fresh{run}-{n}.f{n % 50}.bench.test")
            for n in range(sizes.registrations)
        ]
        found["registrations"].append((await _drained(harness, fresh))[1])
        found["meanwhile"].append(
            await _meanwhile(harness, [_change(name, *way) for way in CHANGES for name in names])
        )
        found["raw"].append(await _raw(harness.cluster.dsns["config"], CONNECTIONS, sizes.raw))
    return Rates(**{name: statistics.median(values) for name, values in found.items()})


async def _drained(harness: ConfigHarness, commands: Sequence[Outgoing]) -> tuple[float, float]:
    """Commands a second stored by the broker while config is stopped; then carried out, from the
    moment it goes on."""
    before = await _applied(harness)
    harness.suspend("config")
    try:
        published, last = await _published(harness, commands)
    finally:
        harness.resume("config")
    took = await _done(harness, last)
    await _check(harness, before + len(commands))
    return published, len(commands) / took


async def _meanwhile(harness: ConfigHarness, commands: Sequence[Outgoing]) -> float:
    before, started = await _applied(harness), time.perf_counter()
    _, last = await _published(harness, commands)
    await _done(harness, last)
    took = time.perf_counter() - started
    await _check(harness, before + len(commands))
    return len(commands) / took


async def _published(harness: ConfigHarness, commands: Sequence[Outgoing]) -> tuple[float, int]:
    """Commands a second until the last PubAck, and the stream's last sequence."""
    js = harness.clients["platform"].jetstream(timeout=30)
    queue, last = iter(commands), 0

    async def publish() -> None:
        nonlocal last
        for command in queue:
            stored = await js.publish(command.subject, command.body, headers=command.headers)
            last = max(last, stored.seq)

    started = time.perf_counter()
    await asyncio.gather(*(publish() for _ in range(IN_FLIGHT)))
    return len(commands) / (time.perf_counter() - started), last


async def _done(harness: ConfigHarness, last: int) -> float:
    """Seconds until everything up to ``last`` was taken and decided, and every event is stored."""
    started = time.perf_counter()
    await _until(
        harness,
        "select not exists (select from inbox_targets)"
        " and not exists (select from outbox where sent_at is null)"
        " and (select max(settled_to) from inbox_streams) >= $1",
        last,
    )
    return time.perf_counter() - started


async def _applied(harness: ConfigHarness) -> int:
    return int(
        await harness.database.fetchval("select count(*) from history where outcome = 'applied'")
    )


async def _check(harness: ConfigHarness, goal: int) -> None:
    applied = await _applied(harness)
    if applied != goal:
        raise AssertionError(f"{goal} commands should be applied by now, {applied} are")


async def _until(harness: ConfigHarness, question: str, goal: int) -> None:
    limit = time.monotonic() + 120
    while not await harness.database.fetchval(question, goal):
        if time.monotonic() > limit:
            raise AssertionError(f"not within two minutes: {question}")
        await asyncio.sleep(0.02)


async def _enable(harness: ConfigHarness, names: Sequence[str]) -> None:
    for start in range(0, len(names), 50):
        await asyncio.gather(*(harness.enable(name) for name in names[start : start + 50]))


async def _raw(dsn: str, connections: int, count: int) -> float:
    """Bare transactions a second."""
    pool = await asyncpg.create_pool(dsn, min_size=connections, max_size=connections)
    await pool.execute(_RAW_TABLES)
    queue, body = iter(range(count)), b"x" * 600

    async def work() -> None:
        async with pool.acquire() as connection:
            for number in queue:
                name = f"d{number % 1000}"
                async with connection.transaction():
                    await connection.fetchval(
                        "select revision from raw_domains where name = $1 for update", name
                    )
                    await connection.execute(
                        "update raw_domains set revision = revision + 1, bundle = $2 where "
                        "name = $1",
                        name,
                        body,
                    )
                    await connection.execute("insert into raw_outbox (body) values ($1)", body)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    took = time.perf_counter() - started
    await pool.close()
    return count / took


async def seed(harness: ConfigHarness, count: int) -> None:
    """``count`` domains as config keeps them: half in one account, two of three with a certificate
    that ends within the next 90 days or has ended."""
    await harness.database.execute(
        "insert into domains (name, parent, account, service_type, origin, trust, settings, "
        "suspended, removed,"
        " revision, registered_revision, registered_at, bundle, bundle_hash, bundle_epoch, "
        "served_until, served_source)"
        " select 'd' || lpad(n::text, 6, '0') || '.t' || n % 50 || '.example.com', 't' || n % "
        "50 || '.example.com',"
        " case when n % 2 = 0 then 'big' else 'account-' || n % 999 end,"
        " (array['image_small_file', 'download', 'video', 'live_streaming'])[1 + n % 4], $2, "
        "'public', $3, false,"
        " false, n, n, now(), repeat('x', 600)::bytea, repeat('0', 64), 0,"
        " case when n % 3 > 0 then now() + make_interval(days => n % 97 - 7) end,"
        " case when n % 3 > 0 then 'custom' end from generate_series(1, $1) n",
        count,
        '{"scheme": "https", "host": "origin.example.com", "port": 443}',
        '{"redirect": {"mode": "to_https", "status": 301}, "http2": true, "tls_min": "1.2", '
        '"tls_max": "1.3",'
        ' "hsts": null}',
    )
    await harness.database.execute(
        "insert into pairs (domain, slot, position, submission_id, pair_id, epoch, "
        "fingerprint, pair, facts)"
        " select name, 'live', 0, 'submission-' || name, 'pair-' || name, 1, "
        "encode(sha256(name::bytea), 'hex'),"
        " repeat('x', 6000), json_build_object('leaf_fingerprint', encode(sha256(name::bytea), "
        "'hex'), 'subject',"
        " 'CN=' || name, 'sans', json_build_array(name, 'www.' || name), 'issuer', "
        "'CN=E5,O=Some Authority,C=US',"
        " 'key_type', 'ECDSA', 'key_bits', 256, 'not_before', served_until - interval '90 "
        "days', 'not_after',"
        " served_until)::text from domains where served_until is not null"
        " and not exists (select from pairs p where p.domain = domains.name)"
    )
    await harness.database.execute("vacuum analyze domains")
    await harness.database.execute("vacuum analyze pairs")


def questions() -> list[ListDomains]:
    """Every kind of list, with much, little and nothing to find, at the start and further on."""
    asked: list[dict[str, Any]] = [
        {},
        {"after": "d05"},
        {"account": "big"},
        {"account": "account-3"},
        {"account": "big", "after": "d09"},
        {"state": DomainState.DISABLED},
        {"state": DomainState.ENABLED, "account": "big"},
        {"state": DomainState.SUSPENDED},
        {"service_type": ServiceType.VIDEO},
        {"source": "stored"},
        {"expires_within": 0},
        {"expires_within": 30, "account": "big"},
        {"order": "expiry"},
        {"order": "expiry", "account": "big", "expires_within": 7},
        {"order": "expiry", "after": f"{(datetime.now(UTC) + timedelta(days=40)).isoformat()} d"},
        {"prefix": "d0123"},
        {"suffix": ".t7.example.com"},
        {"suffix": "nowhere"},
        {"service_type": ServiceType.DOWNLOAD, "source": "stored", "expires_within": 1},
        {"account": "big", "covered_by": ["*.t8.example.com", "d000001.t1.example.com"]},
        {"covered_by": [f"*.t{n}.example.com" for n in range(50)]},
        {"served_by": "0" * 64},
        {"certificate": "mismatch"},
        {"certificate": "expires_soon", "account": "big"},
    ]
    return [ListDomains.model_validate({"limit": 500, **one}) for one in asked]


async def _pages(harness: ConfigHarness, rounds: int) -> list[float]:
    """Milliseconds; every answer must be a page."""
    gc.collect()
    gc.freeze()  # a full collection of this process is none of config's time
    took = []
    for number in range(rounds + 1):
        for question in questions():
            started = time.perf_counter()
            reply = await harness.clients["platform"].request(
                catalogue.RPC_DOMAIN_LIST, question.encode(), timeout=30
            )
            if number:  # the first round fills caches
                took.append((time.perf_counter() - started) * 1000)
            DomainList.model_validate_json(reply.data)
    return took


async def _bare_pages(harness: ConfigHarness, rounds: int) -> list[float]:
    took = []
    for _ in range(rounds * 5):
        started = time.perf_counter()
        await harness.database.fetch(
            "select d.*, p.facts from domains d left join pairs p on p.domain = d.name where "
            "d.name > 'd05'"
            " order by d.name limit 500"
        )
        took.append((time.perf_counter() - started) * 1000)
    return took


def _registration(name: str) -> Outgoing:
    origin = Origin(scheme="http", host="origin.example.com", port=80)
    body = RegisterDomain(domain=name, account=ACCOUNT, service_type="video", origin=origin)
    return outgoing(
        catalogue.CMD_DOMAIN_REGISTER, body, source="bench", about=name, at=datetime.now(UTC)
    )


def _change(name: str, mode: RedirectMode, status: Any) -> Outgoing:
    body = ChangeSettings(
        domain=name, account=ACCOUNT, redirect=RedirectChange(mode=mode, status=status)
    )
    return outgoing(
        catalogue.CMD_SETTINGS_CHANGE, body, source="bench", about=name, at=datetime.now(UTC)
    )


if __name__ == "__main__":
    main(__doc__, measure)
