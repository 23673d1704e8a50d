"""Byte ranges are counted exactly once: repeated, late, out of order, or beside broken ones."""

from __future__ import annotations

import random

from shared import catalogue
from shared.contracts.queries import QueryLogs
from shared.contracts.usage import PreviousLog, UsageBatch, UsageCell
from shared.ids import new_id
from tests.integration.billing.harness import BillingHarness
from tests.support.factories import (
    current_minute,
    make_cell,
    split_into_batches,
    unique_domain,
    unique_name,
)
from tests.support.waiting import until


async def test_a_batch_is_counted_charged_to_its_owner_and_confirmed_signed(
    harness: BillingHarness,
) -> None:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    (batch,) = split_into_batches(
        new_id(), [[make_cell(domain, 40), make_cell(domain, 2, current_minute() - 1)]]
    )
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    await until(lambda: harness.counted(account=account), "the usage has its owner")
    for by in ("account", "domain", "node"):
        for granularity in ("5m", "hour", "day"):
            page = await harness.usage(account=account, by=by, granularity=granularity)
            assert sum(row.https_requests for row in page.rows) == 42
            assert {row.key for row in page.rows} == {
                {"account": account, "domain": domain, "node": "node-1"}[by]
            }
            assert sum(row.https_bytes for row in page.rows) == 4200
            assert sum(row.http_requests for row in page.rows) == 2
    assert str((await harness.balance(account)).balance) == "-0.00021"


async def test_shuffled_and_repeated_ranges_are_counted_once(harness: BillingHarness) -> None:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    batches = split_into_batches(new_id(), [[make_cell(domain, i)] for i in range(1, 41)])
    sent = batches * 2
    random.Random(7).shuffle(sent)
    for batch in sent:
        await harness.batch(batch)
    await harness.until_confirmed(batches[-1])
    await until(lambda: harness.counted(account=account), "the usage has its owner")
    assert await harness.counted(account=account) == sum(range(1, 41))
    page = await harness.ask(catalogue.RPC_USAGE_LOGS, QueryLogs(node="node-1"))
    view = next(v for v in page.logs if v.log == batches[0].log)
    assert (view.stored_to, view.held, view.read_to) == (4000, 0, 4000)


async def test_a_gap_is_visible_and_ranges_behind_it_wait_unconfirmed(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    first, second, third = split_into_batches(
        new_id(), [[make_cell(domain, 1)], [make_cell(domain, 2)], [make_cell(domain, 4)]]
    )
    await harness.batch(first)
    await harness.batch(third)
    await harness.until_confirmed(first)

    async def one_waits() -> bool:
        view = next((v for v in (await _logs(harness)) if v.log == first.log), None)
        return view is not None and view.held == 1 and view.stored_to == 100 and view.read_to == 300

    await until(one_waits, "the third range waits")
    assert harness.confirmed["node-1", first.log] == 100
    assert await harness.counted(domain=domain) == 1
    await harness.batch(second)
    await harness.until_confirmed(third)
    assert await harness.counted(domain=domain) == 7


async def test_an_overlapping_range_is_refused_reported_once_and_the_stored_end_is_confirmed(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    first, second = split_into_batches(new_id(), [[make_cell(domain, 1)], [make_cell(domain, 2)]])
    await harness.batch(first)
    await harness.until_confirmed(first)
    harness.confirmed.clear()
    overlapping = second.model_copy(update={"start": 50})
    await harness.batch(overlapping)
    await harness.batch(overlapping)
    await harness.until_confirmed(first)
    await harness.batch(second)
    await harness.until_confirmed(second)
    assert await harness.counted(domain=domain) == 3
    rows = await harness.database.fetch(
        "select reason, start_at, end_at, stored_to, times, buried from refused_batches where "
        "log = $1",
        first.log,
    )
    assert [tuple(row) for row in rows] == [("overlap", 50, 200, 100, 2, True)]
    letters = [
        letter for letter in await harness.dead_letters() if first.log in (letter.body or "")
    ]
    assert [letter.reason for letter in letters] == ["overlap"]


async def test_a_range_that_comes_again_with_another_content_is_reported_and_a_plain_repeat_is_not(
    harness: BillingHarness,
) -> None:
    """A node whose disk was put back to an earlier state sends such a range."""
    domain = unique_domain()
    first, second = split_into_batches(new_id(), [[make_cell(domain, 1)], [make_cell(domain, 2)]])
    await harness.batch(first)
    await harness.batch(second)
    await harness.until_confirmed(second)
    for _ in range(2):
        await harness.batch(first)
        await harness.batch(second.model_copy(update={"read_to": 900}))
    await harness.batch(first.model_copy(update={"cells": [make_cell(domain, 7777)]}))
    await harness.batch(second.model_copy(update={"bad_lines": 3}))
    await harness.batch(first.model_copy(update={"end": 150}))
    await harness.batch(first.model_copy(update={"start": 30, "end": 60}))
    (last,) = split_into_batches(new_id(), [[make_cell(domain, 4)]])
    await harness.batch(last)
    await harness.until_confirmed(last)
    rows = await harness.database.fetch(
        "select reason, start_at, end_at from refused_batches where log = $1 order by "
        "start_at, end_at",
        first.log,
    )
    assert [(row["reason"].partition(":")[0], row["start_at"], row["end_at"]) for row in rows] == [
        ("conflict", 0, 100),
        ("conflict", 0, 150),
        ("conflict", 30, 60),
        ("conflict", 100, 200),
    ]
    assert await harness.counted(domain=domain) == 7
    letter = await harness.until_dead_letter("conflict: the range was counted with another content")
    assert first.log in (letter.body or "")


async def test_bad_cells_are_diverted_and_their_range_is_accepted(harness: BillingHarness) -> None:
    domain, now = unique_domain(), current_minute()
    bad = [
        make_cell(domain, 10, now + 10),
        make_cell(domain, 20, now - 36 * 1440),
        make_cell("UPPER.example.test", 30),
        make_cell("a\x00b", 40),
        make_cell("", 50),
        UsageCell(domain=domain, minute=2**62, https_requests=60),
    ]
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 1), *bad]])
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    assert await harness.counted(domain=domain) == 1
    rows = await harness.database.fetch(
        "select reason, https_requests from diverted_cells where log = $1 order by https_requests",
        batch.log,
    )
    assert [tuple(row) for row in rows] == [
        ("minute_in_future", 10),
        ("minute_too_old", 20),
        ("domain_invalid", 30),
        ("domain_invalid", 40),
        ("domain_invalid", 50),
        ("minute_in_future", 60),
    ]


async def test_malformed_batches_become_dead_letters_and_their_neighbours_are_counted(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    good = split_into_batches(new_id(), [[make_cell(domain, 1)], [make_cell(domain, 2)]])
    await harness.batch(good[0])
    await harness.publish_raw(
        "billing", catalogue.USAGE_BATCH.for_node("node-1"), b'{"node": "node-1"'
    )
    await harness.publish_raw("billing", catalogue.USAGE_BATCH.for_node("node-1"), b"\xff\x00")
    await harness.batch(
        good[0].model_copy(update={"node": "node-3", "log": new_id()}), node="node-2"
    )
    await harness.batch(good[1])
    await harness.until_confirmed(good[1])
    assert await harness.counted(domain=domain) == 3
    await harness.until_dead_letter("malformed: not a UsageBatch")
    await harness.until_dead_letter("sent by node node-2 for another one")


async def test_a_batch_of_an_unknown_node_waits_until_the_node_is_enrolled(
    harness: BillingHarness,
) -> None:
    domain, node = unique_domain(), unique_name("late")
    batches = split_into_batches(
        new_id(), [[make_cell(domain, 5)], [make_cell(domain, 6)]], node=node
    )
    for batch in reversed(batches):
        await harness.batch(batch)
    await until(
        lambda: harness.database.fetchval(
            "select count(*) = 2 from held_batches where node = $1", node
        ),
        "both wait",
    )
    assert await harness.counted(domain=domain) == 0
    await harness.enrol(node)
    await until(lambda: harness.counted(domain=domain), "they are counted")
    assert await harness.counted(domain=domain) == 11


async def test_a_log_that_ends_short_shows_its_final_length(harness: BillingHarness) -> None:
    old, new = f"a-{new_id()}", f"b-{new_id()}"
    (first,) = split_into_batches(old, [[make_cell(unique_domain(), 1)]])
    await harness.batch(first)
    (follower,) = split_into_batches(new, [[]])
    follower = follower.model_copy(update={"previous": PreviousLog(log=old, length=250)})
    await harness.batch(follower)
    await harness.until_confirmed(follower)
    view = next(v for v in await _logs(harness) if v.log == old)
    assert (view.stored_to, view.final_length) == (100, 250)
    beyond = first.model_copy(update={"start": 100, "end": 300, "read_to": 300})
    await harness.batch(beyond)
    await harness.until_dead_letter("past_final")
    rest = UsageBatch(node="node-1", log=old, start=100, end=250, read_to=250, cells=[], final=True)
    await harness.batch(rest)
    await harness.until_confirmed(rest)


async def _logs(harness: BillingHarness) -> list:
    found, after = [], ""
    while True:
        page = await harness.ask(catalogue.RPC_USAGE_LOGS, QueryLogs(after=after, limit=3))
        found += page.logs
        if page.next is None:
            return found
        after = page.next
