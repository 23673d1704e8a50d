"""Byte ranges are counted exactly once: repeated, late, out of order, or beside broken ones."""

from __future__ import annotations

import random

from shared import catalogue
from shared.contracts.queries import QueryLogs
from shared.contracts.usage import PreviousLog, UsageBatch, UsageCell
from shared.ids import new_id
from tests.integration.billing.harness import Stage, cell, current_minute, domain_name, name, split
from tests.support.waiting import until


async def test_a_batch_is_counted_charged_to_its_owner_and_confirmed_signed(staged: Stage) -> None:
    domain, account = domain_name(), name("acct")
    await staged.register(domain, account)
    (batch,) = split(new_id(), [[cell(domain, 40), cell(domain, 2, current_minute() - 1)]])
    await staged.batch(batch)
    await staged.until_confirmed(batch)
    await until(lambda: staged.counted(account=account), "the usage has its owner")
    for by in ("account", "domain", "node"):
        for granularity in ("5m", "hour", "day"):
            page = await staged.usage(account=account, by=by, granularity=granularity)
            assert sum(row.https_requests for row in page.rows) == 42
            assert {row.key for row in page.rows} == {
                {"account": account, "domain": domain, "node": "node-1"}[by]
            }
            assert sum(row.https_bytes for row in page.rows) == 4200
            assert sum(row.http_requests for row in page.rows) == 2
    assert str((await staged.balance(account)).balance) == "-0.00021"


async def test_shuffled_and_repeated_ranges_are_counted_once(staged: Stage) -> None:
    domain, account = domain_name(), name("acct")
    await staged.register(domain, account)
    batches = split(new_id(), [[cell(domain, i)] for i in range(1, 41)])
    sent = batches * 2
    random.Random(7).shuffle(sent)
    for batch in sent:
        await staged.batch(batch)
    await staged.until_confirmed(batches[-1])
    await until(lambda: staged.counted(account=account), "the usage has its owner")
    assert await staged.counted(account=account) == sum(range(1, 41))
    page = await staged.ask(catalogue.RPC_USAGE_LOGS, QueryLogs(node="node-1"))
    view = next(v for v in page.logs if v.log == batches[0].log)
    assert (view.stored_to, view.held, view.read_to) == (4000, 0, 4000)


async def test_a_gap_is_visible_and_ranges_behind_it_wait_unconfirmed(staged: Stage) -> None:
    domain = domain_name()
    first, second, third = split(
        new_id(), [[cell(domain, 1)], [cell(domain, 2)], [cell(domain, 4)]]
    )
    await staged.batch(first)
    await staged.batch(third)
    await staged.until_confirmed(first)

    async def one_waits() -> bool:
        view = next((v for v in (await _logs(staged)) if v.log == first.log), None)
        return view is not None and view.held == 1 and view.stored_to == 100 and view.read_to == 300

    await until(one_waits, "the third range waits")
    assert staged.confirmed["node-1", first.log] == 100
    assert await staged.counted(domain=domain) == 1
    await staged.batch(second)
    await staged.until_confirmed(third)
    assert await staged.counted(domain=domain) == 7


async def test_an_overlapping_range_is_refused_reported_once_and_the_stored_end_is_confirmed(
    staged: Stage,
) -> None:
    domain = domain_name()
    first, second = split(new_id(), [[cell(domain, 1)], [cell(domain, 2)]])
    await staged.batch(first)
    await staged.until_confirmed(first)
    staged.confirmed.clear()
    overlapping = second.model_copy(update={"start": 50})
    await staged.batch(overlapping)
    await staged.batch(overlapping)
    await staged.until_confirmed(first)
    await staged.batch(second)
    await staged.until_confirmed(second)
    assert await staged.counted(domain=domain) == 3
    rows = await staged.database.fetch(
        "select reason, start_at, end_at, stored_to, times, buried from refused_batches where "
        "log = $1",
        first.log,
    )
    assert [tuple(row) for row in rows] == [("overlap", 50, 200, 100, 2, True)]
    letters = [letter for letter in await staged.dead_letters() if first.log in (letter.body or "")]
    assert [letter.reason for letter in letters] == ["overlap"]


async def test_a_range_that_comes_again_with_another_content_is_reported_and_a_plain_repeat_is_not(
    staged: Stage,
) -> None:
    """A node whose disk was put back to an earlier state sends such a range."""
    domain = domain_name()
    first, second = split(new_id(), [[cell(domain, 1)], [cell(domain, 2)]])
    await staged.batch(first)
    await staged.batch(second)
    await staged.until_confirmed(second)
    for _ in range(2):
        await staged.batch(first)
        await staged.batch(second.model_copy(update={"read_to": 900}))
    await staged.batch(first.model_copy(update={"cells": [cell(domain, 7777)]}))
    await staged.batch(second.model_copy(update={"bad_lines": 3}))
    await staged.batch(first.model_copy(update={"end": 150}))
    await staged.batch(first.model_copy(update={"start": 30, "end": 60}))
    (last,) = split(new_id(), [[cell(domain, 4)]])
    await staged.batch(last)
    await staged.until_confirmed(last)
    rows = await staged.database.fetch(
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
    assert await staged.counted(domain=domain) == 7
    letter = await staged.until_dead_letter("conflict: the range was counted with another content")
    assert first.log in (letter.body or "")


async def test_bad_cells_are_diverted_and_their_range_is_accepted(staged: Stage) -> None:
    domain, now = domain_name(), current_minute()
    bad = [
        cell(domain, 10, now + 10),
        cell(domain, 20, now - 36 * 1440),
        cell("UPPER.example.test", 30),
        cell("a\x00b", 40),
        cell("", 50),
        UsageCell(domain=domain, minute=2**62, https_requests=60),
    ]
    (batch,) = split(new_id(), [[cell(domain, 1), *bad]])
    await staged.batch(batch)
    await staged.until_confirmed(batch)
    assert await staged.counted(domain=domain) == 1
    rows = await staged.database.fetch(
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
    staged: Stage,
) -> None:
    domain = domain_name()
    good = split(new_id(), [[cell(domain, 1)], [cell(domain, 2)]])
    await staged.batch(good[0])
    await staged.raw(catalogue.USAGE_BATCH.for_node("node-1"), b'{"node": "node-1"')
    await staged.raw(catalogue.USAGE_BATCH.for_node("node-1"), b"\xff\x00")
    await staged.batch(
        good[0].model_copy(update={"node": "node-3", "log": new_id()}), node="node-2"
    )
    await staged.batch(good[1])
    await staged.until_confirmed(good[1])
    assert await staged.counted(domain=domain) == 3
    await staged.until_dead_letter("malformed: not a UsageBatch")
    await staged.until_dead_letter("sent by node node-2 for another one")


async def test_a_batch_of_an_unknown_node_waits_until_the_node_is_enrolled(staged: Stage) -> None:
    domain, node = domain_name(), name("late")
    batches = split(new_id(), [[cell(domain, 5)], [cell(domain, 6)]], node=node)
    for batch in reversed(batches):
        await staged.batch(batch)
    await until(
        lambda: staged.database.fetchval(
            "select count(*) = 2 from held_batches where node = $1", node
        ),
        "both wait",
    )
    assert await staged.counted(domain=domain) == 0
    await staged.enrol(node)
    await until(lambda: staged.counted(domain=domain), "they are counted")
    assert await staged.counted(domain=domain) == 11


async def test_a_log_that_ends_short_shows_its_final_length(staged: Stage) -> None:
    old, new = f"a-{new_id()}", f"b-{new_id()}"
    (first,) = split(old, [[cell(domain_name(), 1)]])
    await staged.batch(first)
    (follower,) = split(new, [[]])
    follower = follower.model_copy(update={"previous": PreviousLog(log=old, length=250)})
    await staged.batch(follower)
    await staged.until_confirmed(follower)
    view = next(v for v in await _logs(staged) if v.log == old)
    assert (view.stored_to, view.final_length) == (100, 250)
    beyond = first.model_copy(update={"start": 100, "end": 300, "read_to": 300})
    await staged.batch(beyond)
    await staged.until_dead_letter("past_final")
    rest = UsageBatch(node="node-1", log=old, start=100, end=250, read_to=250, cells=[], final=True)
    await staged.batch(rest)
    await staged.until_confirmed(rest)


async def _logs(staged: Stage) -> list:
    found, after = [], ""
    while True:
        page = await staged.ask(catalogue.RPC_USAGE_LOGS, QueryLogs(after=after, limit=3))
        found += page.logs
        if page.next is None:
            return found
        after = page.next
