"""Usage by the periods of a zone is exact: from hours, from minutes, page by page, a year back."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from services.billing.domain.calendar import period_bounds
from shared import catalogue
from shared.contracts.queries import QueryUsage
from shared.contracts.usage import Granularity, UsageRow
from shared.errors import Refused
from tests.integration.billing.harness import BillingHarness
from tests.integration.finance.made_months import NOW, owner, roll, use, used
from tests.support.factories import unique_domain

MARCH = int(datetime(2026, 3, 27, tzinfo=UTC).timestamp()) // 60


def at(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)


async def rows(harness: BillingHarness, **question: object) -> list[UsageRow]:
    found: list[UsageRow] = []
    after: str | None = None
    while True:
        page = await harness.ask(
            catalogue.RPC_USAGE_QUERY,
            QueryUsage.model_validate({**question, "after": after}),
        )
        found += page.rows
        if page.next is None:
            return found
        after = page.next


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"])
@pytest.mark.parametrize("granularity", ["5m", "hour", "day", "month"])
async def test_the_periods_of_a_zone_add_up_what_was_in_them(
    harness: BillingHarness, zone: str, granularity: Granularity
) -> None:
    """Over both changes of the clocks of 2026 that are near, rolled up, marked and running hours
    mixed."""
    domain, account = await owner(harness)
    count = 11 * 24 * 12
    await use(harness, domain, account, MARCH, count, 5)
    await roll(harness, domain, MARCH, MARCH + count * 5)
    late = MARCH + 100 * 60 + 7
    await harness.database.execute(
        "insert into usage_minutes values ($1, $2, 'node-2', $3, 5, 50, 0, 0)",
        domain,
        late,
        account,
    )
    await harness.database.execute("insert into touched_hours (hour) values ($1)", late // 60)
    first, past = MARCH + 17, MARCH + count * 5 - 23
    found = await rows(
        harness,
        start=at(first),
        end=at(past),
        granularity=granularity,
        zone=zone,
        by="domain",
        account=account,
        limit=100,
    )
    await harness.database.execute("delete from touched_hours where hour = $1", late // 60)
    wanted: Counter[int] = Counter()
    bounds = period_bounds(first, past, granularity, ZoneInfo(zone), 10_000)
    minutes = [(m, used(m)) for m in range(MARCH, MARCH + count * 5, 5)] + [(late, 5)]
    for start, end in pairwise(bounds):
        wanted[start] = sum(
            requests for m, requests in minutes if max(start, first) <= m < min(end, past)
        )
    assert [(row.start, row.https_requests) for row in found] == [
        (at(m), n) for m, n in sorted(wanted.items()) if n
    ]
    assert {row.key for row in found} == {domain}
    assert all(
        row.end == at(bounds[bounds.index(int(row.start.timestamp()) // 60) + 1]) for row in found
    )
    assert all(row.https_bytes == 10 * row.https_requests for row in found)


async def test_a_page_ends_between_two_keys_of_a_period(harness: BillingHarness) -> None:
    _, account = await owner(harness)
    domains = sorted([unique_domain() for _ in range(7)])
    for domain in domains:
        await harness.database.execute(
            "insert into domain_facts (domain, revision, kind, account, at) values ($1, 1, "
            "'registered', $2, now())",
            domain,
            account,
        )
        await use(harness, domain, account, MARCH, 48, 60)
        await roll(harness, domain, MARCH, MARCH + 48 * 60)
    question = {
        "start": at(MARCH),
        "end": at(MARCH + 48 * 60),
        "granularity": "day",
        "account": account,
    }
    for limit in (1, 2, 3, 5, 7, 500):
        found = await rows(harness, **question, by="domain", limit=limit)
        assert [(row.start, row.key) for row in found] == [
            (at(MARCH + day * 1440), domain) for day in range(2) for domain in domains
        ]
        assert {
            sum(row.https_requests for row in found if row.key == domain) for domain in domains
        } == {sum(used(MARCH + m * 60) for m in range(48))}


async def test_half_a_year_of_five_minutes_and_a_year_of_hours_are_read_page_by_page(
    harness: BillingHarness,
) -> None:
    domain, account = await owner(harness)
    now = int(NOW.timestamp()) // 3600 * 60
    first = now - 184 * 1440
    await use(harness, domain, account, first, 184 * 288, 5)
    await harness.database.execute(
        "insert into usage_hours select $1, h, 'node-1', $2, 3, 30, 0, 0 from "
        "generate_series($3::int, $4::int) as h",
        domain,
        account,
        now // 60 - 365 * 24,
        now // 60 - 1,
    )
    began = time.monotonic()
    fives = await rows(
        harness, start=at(first), end=at(now), granularity="5m", by="domain", domain=domain
    )
    hours = await rows(
        harness, start=at(now) - timedelta(days=365), end=at(now), by="domain", account=account
    )
    months = await rows(
        harness,
        start=at(now) - timedelta(days=365),
        end=at(now),
        by="account",
        account=account,
        granularity="month",
        zone="Asia/Shanghai",
    )
    assert len(fives) == 184 * 288
    assert sum(row.https_requests for row in fives) == sum(used(m) for m in range(first, now, 5))
    assert (len(hours), sum(row.https_requests for row in hours)) == (365 * 24, 3 * 365 * 24)
    assert sum(row.https_requests for row in months) == 3 * 365 * 24
    assert time.monotonic() - began < 30


async def test_usage_that_no_account_owns_is_shown_until_it_is_attributed(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    await use(harness, domain, "", MARCH, 10, 1)
    await roll(harness, domain, MARCH, MARCH + 60)
    question = {"start": at(MARCH), "end": at(MARCH + 60), "domain": domain, "by": "domain"}
    (row,) = await rows(harness, **question, unattributed=True)
    assert (row.key, row.https_requests) == (domain, sum(used(MARCH + m) for m in range(10)))
    assert await rows(harness, **question, account="somebody") == []


async def test_an_unknown_zone_is_refused(harness: BillingHarness) -> None:
    with pytest.raises(Refused, match="zone"):
        await rows(harness, start=at(MARCH), end=at(MARCH + 60), zone="Mars/Olympus")


async def test_usage_that_is_no_longer_kept_is_refused_and_never_shown_as_less(
    harness: BillingHarness,
) -> None:
    """Half-hour zones need minutes, and so does a period that cuts an hour."""
    domain, account = await owner(harness)
    await use(harness, domain, account, MARCH, 3 * 288, 5)
    await roll(harness, domain, MARCH, MARCH + 3 * 1440)
    whole = sum(used(m) for m in range(MARCH, MARCH + 3 * 1440, 5))

    async def total(**question: object) -> int:
        asked = {
            "start": at(MARCH),
            "end": at(MARCH + 3 * 1440),
            "by": "account",
            "account": account,
        } | question
        return sum(row.https_requests for row in await rows(harness, **asked))

    questions: list[dict[str, object]] = [
        {"granularity": "5m"},
        {"granularity": "hour", "zone": "Asia/Kolkata"},
        {"granularity": "day", "zone": "Asia/Kolkata"},
        {"granularity": "month", "start": at(MARCH + 17)},
        {"granularity": "hour", "end": at(MARCH + 1440 + 30)},
    ]
    for question in questions:
        assert await total(**question) > 0
    keep = "update usage_kept set minutes_from = $1, hours_from = $2"
    await harness.database.execute(keep, MARCH // 60 + 48, 0)
    try:
        for question in questions:
            with pytest.raises(
                Refused, match=r"request\.too_old.*minute .*is kept from 2026-03-29 00:00 UTC"
            ):
                await total(**question)
        for granularity, zone in (("hour", "UTC"), ("day", "Asia/Shanghai"), ("month", "UTC")):
            assert await total(granularity=granularity, zone=zone) == whole
        assert await total(granularity="5m", start=at(MARCH + 2 * 1440)) > 0
        assert await total(granularity="day", zone="Asia/Kolkata", start=at(MARCH + 2 * 1440)) > 0
        await harness.database.execute(keep, MARCH // 60 + 48, MARCH // 60 + 1)
        with pytest.raises(
            Refused, match=r"request\.too_old.*by the hour is kept from 2026-03-27 01:00 UTC"
        ):
            await total(granularity="day")
        first_hour = sum(used(m) for m in range(MARCH, MARCH + 60, 5))
        assert await total(granularity="day", start=at(MARCH + 60)) == whole - first_hour
    finally:
        await harness.database.execute(keep, 0, 0)
