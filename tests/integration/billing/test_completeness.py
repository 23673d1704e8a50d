"""Missing bytes are named, and an audit agrees or names what differs."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from shared import catalogue
from shared.contracts.audit import AuditReport, Gap, QueryAudit, QueryGaps
from shared.contracts.edge import NodeEvent
from shared.contracts.queries import QueryLogs
from shared.contracts.usage import HttpsRequest, PreviousLog, UsageBatch
from shared.errors import Refused
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


async def _gaps(harness: BillingHarness, log: str) -> list[tuple[int, int, str]]:
    page = await harness.ask(catalogue.RPC_USAGE_GAPS, QueryGaps(node="node-2"))
    assert all(gap.node == "node-2" for gap in page.gaps)
    return [(gap.start, gap.end, gap.kind) for gap in page.gaps if gap.log == log]


async def _until_gaps(
    harness: BillingHarness, log: str, expected: list[tuple[int, int, str]]
) -> None:
    async def so() -> bool:
        return await _gaps(harness, log) == expected

    await until(so, f"the gaps of {log} are {expected}")


async def test_a_withheld_batch_is_a_gap_by_node_log_and_range_and_closes_when_it_arrives(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    parts = split_into_batches(
        new_id(), [[make_cell(domain, n)] for n in range(1, 6)], node="node-2"
    )
    log = parts[0].log
    for part in (parts[0], parts[2], parts[4]):
        await harness.batch(part)
    await _until_gaps(harness, log, [(100, 200, "missing"), (300, 400, "missing")])
    await harness.batch(parts[1])
    await _until_gaps(harness, log, [(300, 400, "missing")])
    await harness.batch(parts[3])
    await _until_gaps(harness, log, [])
    assert await harness.counted(domain=domain) == 15


async def test_a_log_that_ends_short_is_named_by_the_next_logs_first_batch(
    harness: BillingHarness,
) -> None:
    domain = unique_domain()
    first, _ = split_into_batches(
        new_id(), [[make_cell(domain, 1)], [make_cell(domain, 2)]], node="node-2"
    )
    await harness.batch(first.model_copy(update={"read_to": 100}))
    await harness.until_confirmed(first)
    (following,) = split_into_batches(new_id(), [[make_cell(domain, 4)]], node="node-2")
    previous = PreviousLog(log=first.log, length=250)
    await harness.batch(following.model_copy(update={"previous": previous}))
    await _until_gaps(harness, first.log, [(100, 250, "short")])
    await _until_gaps(harness, following.log, [])
    rest = UsageBatch(
        node="node-2", log=first.log, start=100, end=250, read_to=250, cells=[make_cell(domain, 8)]
    )
    await harness.batch(rest)
    await _until_gaps(harness, first.log, [])


async def _node_gaps(harness: BillingHarness, node: str) -> list[tuple[str | None, int, int, str]]:
    found = (await harness.ask(catalogue.RPC_USAGE_GAPS, QueryGaps(node=node))).gaps
    return [(gap.log, gap.start, gap.end, gap.kind) for gap in found]


async def _change_node(
    harness: BillingHarness, node: str, change: Literal["drained", "removed", "labelled"]
) -> None:
    subject = {
        "drained": catalogue.EVENT_NODE_DRAINED,
        "removed": catalogue.EVENT_NODE_REMOVED,
        "labelled": catalogue.EVENT_NODE_LABELLED,
    }
    event = NodeEvent(node=node, change=change, at=datetime.now(UTC))
    await harness.publish("edge_sync", subject[change], event)
    stored = "select true from nodes where node = $1 and at > now() - interval '10 seconds'"
    await until(lambda: harness.database.fetchval(stored, node), f"{change} is stored")


async def test_a_node_that_is_silent_or_never_closed_its_log_is_named(
    harness: BillingHarness,
) -> None:
    drained, removed, unheard = (unique_name("node") for _ in range(3))
    nodes = [drained, removed, unheard]
    for node in nodes:
        await harness.enrol(node)
    domain = unique_domain()
    (of_drained,) = split_into_batches(new_id(), [[make_cell(domain, 1)]], node=drained)
    (of_removed,) = split_into_batches(new_id(), [[make_cell(domain, 1)]], node=removed)
    await harness.batch(of_drained)
    await harness.batch(of_removed)
    await _change_node(harness, drained, "drained")
    await _change_node(harness, drained, "labelled")
    await _change_node(harness, removed, "removed")
    both = "select count(*) = 2 from node_logs where log = any($1::text[])"
    logs = [of_drained.log, of_removed.log]
    await until(lambda: harness.database.fetchval(both, logs), "both batches are in")
    for node in nodes:
        assert await _node_gaps(harness, node) == [], "five minutes have not passed"
    long_ago = "update {} set {} = now() - interval '1 hour' where node = any($1::text[])"
    await harness.database.execute(long_ago.format("nodes", "at"), nodes)
    await harness.database.execute(long_ago.format("node_logs", "last_seen"), nodes)
    assert await _node_gaps(harness, drained) == [(of_drained.log, 100, 100, "unfinished")]
    assert await _node_gaps(harness, removed) == [(of_removed.log, 100, 100, "unfinished")]
    assert await _node_gaps(harness, unheard) == [(None, 0, 0, "unheard")]
    later = QueryGaps(node=removed, start=datetime.now(UTC) - timedelta(minutes=1))
    assert (await harness.ask(catalogue.RPC_USAGE_GAPS, later)).gaps == []
    await harness.batch(of_drained.model_copy(update={"final": True}))
    final = "select final_length = 100 from node_logs where log = $1"
    await until(lambda: harness.database.fetchval(final, of_drained.log), "it is closed")
    assert await _node_gaps(harness, drained) == []


async def test_a_batch_of_an_unknown_node_is_a_gap_until_the_node_is_enrolled(
    harness: BillingHarness,
) -> None:
    stranger = unique_name("node")
    (batch,) = split_into_batches(new_id(), [[make_cell(unique_domain(), 1)]], node=stranger)
    await harness.batch(batch)
    waits = "select count(*) = 1 from held_batches where node = $1"
    await until(lambda: harness.database.fetchval(waits, stranger), "the batch waits")
    assert await _node_gaps(harness, stranger) == [(batch.log, 0, 100, "unknown_node")]
    await harness.enrol(stranger)
    counted = "select count(*) = 0 from held_batches where node = $1"
    await until(lambda: harness.database.fetchval(counted, stranger), "it is counted")
    assert await _node_gaps(harness, stranger) == []


async def test_lines_that_nodes_could_not_read_are_in_every_report(harness: BillingHarness) -> None:
    (batch,) = split_into_batches(new_id(), [[make_cell(unique_domain(), 1)]])
    batch = batch.model_copy(update={"bad_lines": 10})
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    async def reported() -> int:
        question = QueryAudit(start=hour - timedelta(hours=1), end=hour + timedelta(hours=1))
        return (await harness.ask(catalogue.RPC_USAGE_AUDIT, question)).bad_lines

    before = await reported()
    for _ in range(2):
        await harness.batch(batch)
    await harness.until_confirmed(batch)
    assert await reported() == before + 10
    page = await harness.ask(catalogue.RPC_USAGE_LOGS, QueryLogs(node="node-1"))
    assert next(view for view in page.logs if view.log == batch.log).bad_lines == 10
    lines = "select bad_lines from finance.logs where log = $1"
    assert await harness.database.fetchval(lines, batch.log) == 10


async def test_gaps_come_page_by_page(harness: BillingHarness) -> None:
    parts = [
        split_into_batches(new_id(), [[make_cell("p.example.test", 1)]] * 2, node="node-3")[1]
        for _ in range(5)
    ]
    await asyncio.gather(*(harness.batch(part) for part in parts))
    found: list[Gap] = []

    async def all_there() -> bool:
        found.clear()
        after: str | None = ""
        while after is not None:
            page = await harness.ask(
                catalogue.RPC_USAGE_GAPS, QueryGaps(node="node-3", after=after, limit=2)
            )
            found.extend(page.gaps)
            after = page.next
        return {part.log for part in parts} <= {gap.log for gap in found}

    await until(all_there, "every gap is on a page")
    assert len({(gap.log, gap.start) for gap in found}) == len(found)


async def test_a_batch_that_overlaps_only_after_it_has_waited_is_one_dead_letter(
    harness: BillingHarness,
) -> None:
    log, domain = new_id(), unique_domain()

    def batch(start: int, end: int) -> UsageBatch:
        return UsageBatch(
            node="node-1", log=log, start=start, end=end, read_to=end, cells=[make_cell(domain, 1)]
        )

    await harness.batch(batch(50, 150))
    await until(
        lambda: harness.database.fetchval("select count(*) from held_batches where log = $1", log),
        "it waits",
    )
    await harness.batch(batch(0, 100))

    async def dead_lettered() -> int:
        return sum(
            json.loads(x.body or "{}").get("log") == log
            for x in await harness.dead_letters()
            if x.reason == "overlap"
        )

    await until(dead_lettered, "it is a dead letter")
    await harness.batch(batch(100, 200))
    await harness.until_confirmed(batch(100, 200))
    assert await dead_lettered() == 1
    row = await harness.database.fetchrow(
        "select buried, body from refused_batches where log = $1", log
    )
    assert row is not None and (row["buried"], row["body"]) == (True, None)


async def test_a_refusal_whose_process_died_before_the_dead_letter_gets_one_from_the_next(
    harness: BillingHarness,
) -> None:
    body = UsageBatch(node="node-1", log=new_id(), start=0, end=5, read_to=5, cells=[]).encode()
    await harness.database.execute(
        "insert into refused_batches (node, digest, reason, first_at, last_at, body) values "
        "('node-1', $1,"
        " 'overlap: forgotten', now() - interval '1 minute', now() - interval '1 minute', $2)",
        new_id().encode(),
        body,
    )
    letter = await harness.until_dead_letter("overlap: forgotten")
    assert letter.body == body.decode()


async def test_a_minute_beyond_64_bits_diverts_its_cell_alone(harness: BillingHarness) -> None:
    domain, log = unique_domain(), new_id()
    good, wild = make_cell(domain, 3), make_cell(domain, 5, 7)
    batch = UsageBatch(node="node-1", log=log, start=0, end=100, read_to=100, cells=[good, wild])
    for minute in ("99999999999999999999999999", "-18446744073709551617"):
        text = batch.encode().replace(b'"minute":7,', f'"minute":{minute},'.encode())
        await harness.publish_raw("billing", catalogue.USAGE_BATCH.for_node("node-1"), text)
        await harness.until_confirmed(batch)
        batch = batch.model_copy(
            update={"start": batch.end, "end": batch.end + 100, "read_to": batch.end + 100}
        )
    assert await harness.counted(domain=domain) == 6
    rows = await harness.database.fetch(
        "select reason from diverted_cells where log = $1 order by id", log
    )
    assert [row["reason"] for row in rows] == ["minute_in_future", "minute_too_old"]


async def test_an_audit_agrees_to_the_last_request_and_names_what_was_tampered_with(
    harness: BillingHarness,
) -> None:
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account)
    for batch in split_into_batches(
        new_id(),
        [
            [make_cell(domain, n), make_cell(domain, 2 * n, current_minute() - 90)]
            for n in range(1, 9)
        ],
    ):
        await harness.batch(batch)
    now = datetime.now(UTC)
    for number in range(30):
        await harness.request(
            HttpsRequest(
                id=f"{number}",
                source=account,
                time=now - timedelta(minutes=number),
                domain=domain,
                bytes=7,
                status=200,
                node="node-9",
            )
        )

    async def counted() -> bool:
        return await harness.counted(account=account) == 36 + 72 + 30

    await until(counted, "all is counted")
    await harness.close_hour(now + timedelta(hours=1))
    await until(
        lambda: harness.database.fetchval(
            "select bool_and(requests = charged) from account_hours where account = $1", account
        ),
        "charged",
    )
    start = (now - timedelta(hours=5)).replace(minute=0, second=0, microsecond=0)

    async def audit() -> AuditReport:
        question = QueryAudit(start=start, end=start + timedelta(hours=7))
        return await harness.ask(catalogue.RPC_USAGE_AUDIT, question)

    report = await audit()
    assert (report.agrees, report.complete, report.differences) == (True, True, [])
    assert report.requests >= 138 and report.single_events >= 30
    change = (
        "update usage_minutes set https_requests = https_requests + $1 where domain = $2 "
        "and minute = $3"
    )
    await harness.database.execute(change, 1, domain, current_minute() - 90)
    await harness.database.execute(
        "update account_hours set requests = requests + 3 where account = $1", account
    )
    report = await audit()
    await harness.database.execute(
        "update account_hours set requests = requests - 3 where account = $1", account
    )
    await harness.database.execute(change, -1, domain, current_minute() - 90)
    assert not report.agrees
    assert {one.what for one in report.differences if account in one.place} >= {"usage", "accrual"}
    assert (await audit()).agrees


async def test_an_audit_ends_with_the_running_hour_and_refuses_a_period_in_the_future(
    harness: BillingHarness,
) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    async def audit(start: timedelta, end: timedelta) -> AuditReport:
        return await harness.ask(
            catalogue.RPC_USAGE_AUDIT, QueryAudit(start=hour + start, end=hour + end)
        )

    report = await audit(-timedelta(hours=2), timedelta(days=300))
    assert timedelta(hours=1) <= report.end - hour <= timedelta(hours=2)
    for start, end in (
        (timedelta(days=2), timedelta(days=3)),
        (timedelta(0), timedelta(0)),
        (-timedelta(hours=1), -timedelta(hours=2)),
    ):
        with pytest.raises(Refused, match=r"request\.malformed"):
            await audit(start, end)


async def test_hours_that_were_forgotten_are_not_compared_and_the_audit_says_so(
    harness: BillingHarness,
) -> None:
    """The archive still has those hours, and the charges are compared all the same."""
    domain, account = unique_domain(), unique_name("acct")
    await harness.register(domain, account, datetime.now(UTC) - timedelta(days=40))
    minute = current_minute() - 20 * 24 * 60
    (batch,) = split_into_batches(new_id(), [[make_cell(domain, 100, minute)]])
    await harness.batch(batch)
    await harness.until_confirmed(batch)
    start = datetime.fromtimestamp(minute // 60 * 3600, UTC)

    async def audit() -> AuditReport:
        question = QueryAudit(start=start, end=start + timedelta(hours=1))
        return await harness.ask(catalogue.RPC_USAGE_AUDIT, question)

    await harness.close_hour(start + timedelta(hours=1))
    await until(
        lambda: harness.database.fetchval(
            "select bool_and(requests = charged) from account_hours where account = $1", account
        ),
        "charged",
    )
    report = await audit()
    assert (report.agrees, report.complete, report.requests) == (True, True, 100)
    forget = "update usage_kept set hours_from = $1, minutes_from = $1"
    await harness.database.execute(forget, minute // 60 + 1)
    await harness.database.execute("delete from usage_minutes where domain = $1", domain)
    await harness.database.execute("delete from usage_hours where domain = $1", domain)
    report = await audit()
    assert (report.agrees, report.complete, report.charged) == (True, False, 100), (
        report.differences
    )
    await harness.database.execute(forget, 0)
