"""Finance gets the same number from a running platform by every way there is to it."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pyarrow.parquet as pq
import pytest

from clients.platform.connection import PlatformConnection
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.contracts.usage import HttpsRequest
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from tests.support.command_line import Edgetls
from tests.support.focus_rules import rule_violations
from tests.support.waiting import LIMIT_SECONDS, until

MONEY = "finance-e2e"
DOMAIN = "money.example.test"
UNREGISTERED = "stranger.example.test"
REQUESTS = 40
COST = Decimal("0.0002")


@pytest.fixture(scope="module")
def money(platform: EmbeddedPlatform) -> Edgetls:
    return Edgetls(platform.data, MONEY)


@pytest.fixture(scope="module")
async def hour(platform: EmbeddedPlatform, money: Edgetls) -> AsyncIterator[datetime]:
    """The hour of REQUESTS requests that are charged to MONEY, which was credited 5, and of one
    more for a domain that is not registered."""
    done = await money(
        "domain", "register", DOMAIN, "--type", "download", "--origin", "http://127.0.0.1:9"
    )
    assert done.code == 0, done.err
    assert (await money("balance", "credit", "5", "--reference", "top-up-1")).code == 0
    at = datetime.now(UTC) + timedelta(minutes=2)  # past the minute that the owner begins with
    reach = await PlatformConnection.open(
        platform.run["nats_url"], Path(platform.run["credentials"]["platform"]), "platform", 10
    )
    for number in range(REQUESTS + 1):
        request = HttpsRequest(
            id=new_id(),
            source="e2e",
            time=at,
            domain=DOMAIN if number else UNREGISTERED,
            bytes=7,
            status=200,
            node="node-1",
        )
        await reach.publish(
            outgoing(
                catalogue.USAGE_REQUEST, request, source="e2e", about=DOMAIN, at=at, dedupe=False
            )
        )
    await reach.close()
    begin = at.replace(minute=0, second=0, microsecond=0)

    async def is_charged() -> bool:
        # In the last minutes of an hour the next one cannot be closed yet.
        if begin > datetime.now(UTC):
            return False
        end = (begin + timedelta(hours=1)).isoformat()
        assert (await money("hour", "close", "--until", end)).code == 0
        rows = (await money("charges", "--to", end, "--json")).json
        return sum(row["requests"] for row in rows) == REQUESTS

    await until(
        is_charged,
        "all requests are charged",
        limit=LIMIT_SECONDS + max(0.0, (begin - datetime.now(UTC)).total_seconds()),
    )
    yield begin


def period_options(hour: datetime) -> list[str]:
    """Return the options for a day that ends with this hour."""
    return [
        "--from",
        (hour - timedelta(days=1)).isoformat(),
        "--to",
        (hour + timedelta(hours=1)).isoformat(),
    ]


async def test_usage_charges_statement_and_views_say_the_same(
    platform: EmbeddedPlatform, money: Edgetls, hour: datetime
) -> None:
    usage = (
        await money(
            "usage",
            *period_options(hour),
            "--granularity",
            "month",
            "--zone",
            "Asia/Shanghai",
            "--json",
        )
    ).json
    assert [(row["by"], row["key"], row["https_requests"]) for row in usage] == [
        ("domain", DOMAIN, REQUESTS)
    ]
    charges = (await money("charges", *period_options(hour), "--json")).json
    assert sum(Decimal(row["amount"]) for row in charges) == COST
    statement = (await money("statement", f"{hour:%Y-%m}", "--json")).json
    totals = {name: Decimal(value) for name, value in statement["totals"].items()}
    assert (totals["opening"], totals["credits"], totals["charges"], totals["closing"]) == (
        0,
        5,
        -COST,
        5 - COST,
    )
    assert not statement["final"]
    connection = await asyncpg.connect(platform.run["postgres"]["finance"], timeout=30)
    view = await connection.fetchrow(
        "select (select sum(cost) from finance.charges where account = $1) as cost,"
        " (select sum(https_requests) from finance.usage_hours where account = $1) as used,"
        " (select ledger from finance.balances where account = $1) as balance",
        MONEY,
    )
    await connection.close()
    assert tuple(view) == (COST, REQUESTS, 5 - COST)


async def test_files_of_every_form_have_the_whole_ledger(
    money: Edgetls, hour: datetime, tmp_path: Path
) -> None:
    wanted = {
        "charges.csv": [],
        "charges.parquet": ["--format", "parquet"],
        "focus.csv": ["--focus"],
        "focus.parquet": ["--focus", "--format", "parquet"],
    }
    for name, options in wanted.items():
        done = await money(
            "charges",
            *period_options(hour),
            "--credits",
            *options,
            "--output",
            str(tmp_path / name),
        )
        assert done.code == 0, done.err
        assert f"rows in {tmp_path / name}" in done.out
    column = {"charges": "amount", "focus": "BilledCost"}
    for name in wanted:
        file = tmp_path / name
        rows = pq.read_table(file).to_pylist() if name.endswith("parquet") else _read_csv(file)
        assert sum(Decimal(row[column[file.stem]]) for row in rows) == COST - 5, name
    assert list(rule_violations(_read_csv(tmp_path / "focus.csv"))) == []


async def test_a_statement_is_a_table_a_file_and_focus(
    money: Edgetls, hour: datetime, tmp_path: Path
) -> None:
    shown = await money("statement", f"{hour:%Y-%m}")
    assert shown.code == 0, shown.err
    assert "not final yet" in shown.out and "top-up-1" in shown.out and "4.9998" in shown.out
    file = tmp_path / "statement.csv"
    assert (await money("statement", f"{hour:%Y-%m}", "--by", "hour", "-o", str(file))).code == 0
    rows = _read_csv(file)
    assert [row["kind"] for row in rows] == ["opening", "credit", "charge", "closing"]
    assert (
        sum(Decimal(row["amount"]) for row in rows[:-1]) == Decimal(rows[-1]["amount"]) == 5 - COST
    )
    focus = await money("statement", f"{hour:%Y-%m}", "--focus")
    assert focus.code == 0 and focus.out.startswith("AvailabilityZone,BilledCost,")


async def test_usage_of_a_domain_that_nobody_registered_is_shown_as_such(
    money: Edgetls, hour: datetime
) -> None:
    rows = (await money("usage", *period_options(hour), "--unattributed", "--json")).json
    assert {row["key"]: row["https_requests"] for row in rows}[UNREGISTERED] == 1


async def test_finance_may_take_it_all_with_its_own_login(
    platform: EmbeddedPlatform, money: Edgetls, hour: datetime
) -> None:
    login = (
        "--nats-url",
        platform.run["nats_url"],
        "--seed-file",
        platform.run["credentials"]["finance"],
        "--user",
        "finance",
    )
    for words in (
        ("statement",),
        ("charges", "--all-accounts", "--focus"),
        ("usage", "--all-accounts"),
    ):
        assert (await money(*words, *login, "--patience", "60")).code == 0
    assert (await money("balance", "credit", "1", *login, "--patience", "3")).code == 3


async def test_an_unknown_zone_month_or_folder_is_said_in_one_line(
    money: Edgetls, tmp_path: Path
) -> None:
    for words, complaint in (
        (("usage", "--zone", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (("statement", "2026-13"), "month"),
        (("charges", "--output", str(tmp_path / "missing" / "x.csv")), "cannot write"),
    ):
        done = await money(*words)
        assert done.code == 2
        assert complaint in done.err and "Traceback" not in done.err


def _read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))
