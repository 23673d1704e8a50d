"""Finance may read the views of its schema in the database, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from deploy.embedded.postgres import CLOSED_TO_FINANCE
from shared.ids import new_id
from shared.storage.pool import Connection
from tests.integration.billing.harness import BillingHarness
from tests.integration.finance.made_months import PRICE, Line, book, owner, roll, use, used
from tests.support.factories import make_cell, split_into_batches, unique_domain, unique_name
from tests.support.waiting import until

VIEWS = {
    "ledger",
    "charges",
    "usage_minutes",
    "usage_hours",
    "unattributed",
    "balances",
    "plans",
    "price_books",
    "logs",
    "diverted",
    "conflicts",
    "parked",
    "refused",
}
MAY = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) // 60


@pytest.fixture
async def finance(harness: BillingHarness) -> AsyncIterator[Connection]:
    dsn = (harness.cluster.folder / "keys" / "finance.dsn").read_text().strip()
    connection = await asyncpg.connect(dsn, timeout=5)
    yield connection
    await connection.close()


async def test_finance_reads_every_view_and_each_is_explained(finance: Connection) -> None:
    rows = await finance.fetch(
        "select c.relname, obj_description(c.oid) as text from pg_class c join pg_namespace n "
        "on n.oid = c.relnamespace"
        " where n.nspname = 'finance' and c.relkind = 'v'"
    )
    assert {row["relname"] for row in rows} >= VIEWS
    for row in rows:
        await finance.fetch(f"select * from finance.{row['relname']} limit 3")
        assert row["text"], f"{row['relname']} has a comment"


async def test_finance_reads_no_table_and_no_sequence(
    harness: BillingHarness, finance: Connection
) -> None:
    names = [
        row["name"]
        for row in await harness.database.fetch(
            "select format('%I.%I', n.nspname, c.relname) as name from pg_class c join "
            "pg_namespace n"
            " on n.oid = c.relnamespace where n.nspname not in ('pg_catalog', "
            "'information_schema', 'finance')"
            " and n.nspname not like 'pg_toast%' and c.relkind in ('r', 'p', 'v', 'm', 'S')"
        )
    ]
    assert len(names) > 20
    for one in names:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await finance.fetch(f"select * from {one} limit 1")


@pytest.mark.parametrize(
    "statement",
    [
        "insert into finance.conflicts values ('a', 'b', now())",
        "update finance.balances set ledger = 0",
        "delete from finance.refused",
        "insert into public.accounts (account) values ('a')",
        "create table x (a int)",
        "create table finance.x (a int)",
        "create temporary table x (a int)",
        "create schema x",
        "drop view finance.ledger",
        "truncate public.ledger",
        "set role billing",
        "select set_config('session_replication_role', 'replica', false)",
        "copy public.ledger to stdout",
        "alter role edgetls_finance createrole",
        "select pg_read_file('postgresql.conf')",
        "begin; lock table public.ledger",
        "begin; lock table public.owners_gate",
        "begin; lock table finance.logs",
        "select lo_creat(-1)",
        "select lo_from_bytea(0, 'x')",
        "select pg_notify('outbox', 'x')",
        "select pg_logical_emit_message(false, 'x', 'y')",
        "select pg_advisory_lock(7316248551140310)",
        "select pg_try_advisory_lock(1)",
        "select pg_advisory_xact_lock_shared(1, 2)",
        "select pg_try_advisory_xact_lock(1)",
    ],
)
async def test_finance_changes_nothing_even_when_it_asks_to_write(
    finance: Connection, statement: str
) -> None:
    await finance.execute("set default_transaction_read_only = off")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await finance.execute(statement)


async def test_billing_counts_on_beside_all_locks_and_reads_of_finance(
    harness: BillingHarness, finance: Connection
) -> None:
    """An open transaction holds every lock that finance may take."""
    await finance.execute("begin")
    for view in VIEWS:
        await finance.execute(f"lock table finance.{view} in access share mode")
        await finance.fetch(f"select * from finance.{view} limit 1")
    await finance.execute("notify outbox")
    batches = split_into_batches(new_id(), [[make_cell(unique_domain(), 3)]] * 3)
    for batch in batches:
        await harness.batch(batch)
    await harness.until_confirmed(batches[-1])
    account = unique_name("acct")
    await harness.credit(account, "1")
    await harness.until_balance_event(account, "credited")


def test_the_documentation_closes_in_production_what_is_closed_here() -> None:
    document = (Path(__file__).parents[3] / "docs" / "finance.md").read_text()
    assert CLOSED_TO_FINANCE in document


async def test_the_other_databases_are_closed_to_it(harness: BillingHarness) -> None:
    dsn = (harness.cluster.folder / "keys" / "finance.dsn").read_text().strip()
    for other in ("postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(dsn.replace("@/billing?", f"@/{other}?"), timeout=5)


async def test_the_reconciliation_of_the_documentation_holds(
    harness: BillingHarness, finance: Connection
) -> None:
    """docs/finance.md: requests of the usage of closed hours, requests charged, money charged, the
    balance."""
    domain, account = await owner(harness)
    await use(harness, domain, account, MAY, 48 * 12, 5)
    await roll(harness, domain, MAY, MAY + 47 * 60)
    await harness.database.execute("insert into touched_hours (hour) values ($1)", MAY // 60 + 47)
    by_hour = [sum(used(MAY + h * 60 + m) for m in range(0, 60, 5)) for h in range(48)]
    charges = [
        Line(
            "charge",
            -PRICE * n / 10_000,
            datetime.fromtimestamp((MAY + 60 * h + 63) * 60, UTC),
            MAY // 60 + h,
            1,
            n,
        )
        for h, n in enumerate(by_hour)
    ]
    await book(
        harness, account, [Line("credit", Decimal(10), charges[0].at, reference="r-1"), *charges]
    )
    row = await finance.fetchrow(
        "select (select sum(https_requests) from finance.usage_hours where account = $1"
        " and unix_hour >= finance.unix_hour('2026-05-01Z') and unix_hour < "
        "finance.unix_hour('2026-05-03Z')) as used,"
        " (select sum(requests) from finance.charges where account = $1) as charged,"
        " (select sum(cost) from finance.charges where account = $1 and billed_at >= '2026-05-01Z'"
        " and billed_at < '2026-06-01Z') as cost,"
        " (select sum(amount) from finance.ledger where account = $1) as amount,"
        " (select ledger from finance.balances where account = $1) as balance",
        account,
    )
    await harness.database.execute("delete from touched_hours where hour = $1", MAY // 60 + 47)
    assert row["used"] == row["charged"] == sum(by_hour)
    assert row["cost"] == PRICE * sum(by_hour) / 10_000
    assert row["amount"] == row["balance"] == 10 - row["cost"]


async def test_unattributed_usage_is_a_view_of_its_own(
    harness: BillingHarness, finance: Connection
) -> None:
    domain = unique_domain()
    await use(harness, domain, "", MAY, 3, 1)
    rows = await finance.fetch(
        "select unix_minute, https_requests from finance.unattributed where domain = $1", domain
    )
    assert {row["unix_minute"]: row["https_requests"] for row in rows} == {
        MAY + m: used(MAY + m) for m in range(3)
    }
    await use(harness, unique_name("d") + ".example.test", "somebody", MAY, 1, 1)
    assert (
        await finance.fetchval(
            "select count(*) from finance.unattributed where domain <> $1", domain
        )
        == 0
    )


async def test_the_rights_are_granted_again_at_every_start(
    harness: BillingHarness, finance: Connection
) -> None:
    await harness.database.execute(
        "revoke select on all tables in schema finance from edgetls_finance"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await finance.fetch("select * from finance.ledger limit 1")
    harness.kill("billing")

    async def granted() -> bool:
        return bool(
            await finance.fetchval("select has_table_privilege('finance.ledger', 'select')")
        )

    await until(granted, "billing has started again and granted them")
    await finance.fetch("select * from finance.ledger limit 1")
    await harness.ready("billing")
