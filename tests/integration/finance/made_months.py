"""Months of usage and of ledger, written into the database: no test can wait for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.integration.billing.harness import BillingHarness
from tests.support.factories import unique_domain, unique_name

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 15, 12, 5, tzinfo=UTC)
PRICE = Decimal("0.05")


@dataclass(frozen=True)
class Line:
    """A ledger line as it is in the database."""

    kind: str
    amount: Decimal
    at: datetime
    hour: int | None = None
    posting: int | None = None
    requests: int | None = None
    reference: str | None = None


def set_clock(harness: BillingHarness) -> None:
    """Set billing's clock to NOW, before it starts."""
    harness.clock_file.write_text(f"{(NOW - datetime.now(UTC)).total_seconds()}\n")


async def owner(harness: BillingHarness, begin: datetime = BEGIN) -> tuple[str, str]:
    """Return a new domain and a new account, which owns it from ``begin`` on."""
    domain, account = unique_domain(), unique_name("acct")
    await harness.database.execute(
        "insert into domain_facts (domain, revision, kind, account, at) values ($1, 1, "
        "'registered', $2, $3)",
        domain,
        account,
        begin,
    )
    return domain, account


def lines(seed: int, months: int = 4) -> list[Line]:
    """Write credits, charges, and corrections soon after and long after, also at the edges of
    months."""
    chance = random.Random(seed)
    found = [
        Line("credit", Decimal(1000), BEGIN + timedelta(hours=5, seconds=7), reference="top-up-1")
    ]
    hour = int(BEGIN.timestamp()) // 3600
    for at in range(hour, hour + months * 31 * 24, 3):
        requests = chance.randrange(1, 10**6)
        end = datetime.fromtimestamp((at + 1) * 3600, UTC)
        found.append(
            _charge(
                at, 1, requests, end + timedelta(minutes=3, microseconds=chance.randrange(10**6))
            )
        )
        if chance.random() < 0.1:
            late = timedelta(hours=chance.choice([1, 20, 25, 30 * 24]))
            found.append(_charge(at, 2, chance.randrange(-requests, requests), end + late))
    for number in range(2, months + 2):
        at_time = BEGIN + timedelta(days=27 * number, seconds=chance.randrange(86400))
        found.append(
            Line("credit", Decimal(number) + Decimal("0.01"), at_time, reference=f"top-up-{number}")
        )
    return sorted(found, key=lambda line: line.at)


def _charge(hour: int, posting: int, requests: int, at: datetime) -> Line:
    kind = "charge" if posting == 1 else "correction"
    return Line(kind, -PRICE * requests / 10_000, at, hour, posting, requests)


async def book(harness: BillingHarness, account: str, wanted: list[Line]) -> None:
    async with harness.database.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into accounts (account, currency, ledger, entries) values ($1, 'CNY', $2, $3)",
            account,
            sum((line.amount for line in wanted), Decimal(0)),
            len(wanted),
        )
        await connection.executemany(
            "insert into ledger (account, kind, amount, currency, at, hour, posting, requests, "
            "price, reference, plan)"
            " values ($1, $2, $3, 'CNY', $4, $5, $6, $7, $8, $9, $10)",
            [
                (
                    account,
                    ln.kind,
                    ln.amount,
                    ln.at,
                    ln.hour,
                    ln.posting,
                    ln.requests,
                    None if ln.hour is None else PRICE,
                    ln.reference,
                    ln.reference if ln.kind == "plan" else None,
                )
                for ln in wanted
            ],
        )


async def use(
    harness: BillingHarness,
    domain: str,
    account: str,
    first: int,
    count: int,
    step: int,
    node: str = "node-1",
) -> None:
    """Write ``count`` minutes from ``first`` on, one in ``step``, each with used() requests."""
    await harness.database.execute(
        "insert into usage_minutes select $1, m, $3, $2, m % 97 + 1, 10 * (m % 97 + 1), 1, 2"
        " from generate_series($4::int, $4 + ($5 - 1) * $6, $6) as m",
        domain,
        account,
        node,
        first,
        count,
        step,
    )


def used(minute: int) -> int:
    return minute % 97 + 1


async def roll(harness: BillingHarness, domain: str, first: int, past: int) -> None:
    """Roll hours up, as the close of hours does, for this domain alone."""
    await harness.database.execute(
        "insert into usage_hours select domain, minute / 60, node, account, "
        "sum(https_requests), sum(https_bytes),"
        " sum(http_requests), sum(http_bytes) from usage_minutes where domain = $1 and minute "
        ">= $2 and minute < $3"
        " group by 1, 2, 3, 4",
        domain,
        first,
        past,
    )
