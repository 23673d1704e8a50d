"""Requests that were served are reported until billing has confirmed them, over crashes of
anybody."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Awaitable, Callable

from deploy.embedded.ports import HOST
from shared.contracts.edge import LogPosition
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import EdgeNode
from tests.support.waiting import until


async def visit(node: EdgeNode, name: str, times: int) -> None:
    """Requests on one connection; the origin is not there, so each is answered 502: billed as any
    other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        HOST, node.https_port, ssl=context, server_hostname=name
    )
    for _ in range(times):
        writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await reader.readexactly(int(length.split(b":")[1]))
    writer.transport.abort()


def counted(stage: Stage) -> int:
    """Requests in distinct ranges: a repeated one counts once."""
    ranges = {(b.log, b.start, b.end): b for b in stage.control.batches}
    return sum(cell.https_requests for batch in ranges.values() for cell in batch.cells)


async def test_requests_are_counted_once_and_confirmed(stage: Stage) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    await visit(stage.node, "a.test", 30)
    await until(lambda: counted(stage) == 30, "all requests are reported")
    await until(lambda: _confirmed(stage) > 0, "the node knows of the confirmation")
    batch = stage.control.batches[-1]
    assert {cell.domain for b in stage.control.batches for cell in b.cells} == {"a.test"}
    assert (batch.read_to, batch.bad_lines, batch.final) == (_confirmed(stage), 0, False)
    positions = await until(lambda: stage.control.statuses[-1].logs, "the status has positions")
    assert positions == [
        LogPosition(log=batch.log, read_to=batch.read_to, confirmed_to=batch.read_to)
    ]


async def test_unconfirmed_ranges_are_sent_again_over_a_restart_of_agent_and_broker(
    stage: Stage,
) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    stage.control.confirming = False
    for requests in (3, 4):
        before = counted(stage)
        await visit(stage.node, "a.test", requests)
        await until(lambda wanted=before + requests: counted(stage) == wanted, "the range is sent")
    first = _ranges(stage)
    stage.control.batches.clear()
    await until(lambda: first <= _ranges(stage), "they are sent again", limit=8)
    stage.node.stop("agent", number=signal.SIGKILL)
    stage.control.batches.clear()
    stage.node.start("agent")
    await until(lambda: first <= _ranges(stage), "the same ranges come after a crash")
    assert counted(stage) == 7
    await stage.restart_broker()
    stage.control.confirming = True
    await stage.control.start()
    await visit(stage.node, "a.test", 2)
    await until(lambda: counted(stage) == 9, "all nine are reported after the broker's return")
    await until(lambda: _confirmed(stage) == max(stage.control.stored.values()), "all is confirmed")


async def test_a_node_that_lost_its_notes_goes_on_where_billing_stands(stage: Stage) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    await visit(stage.node, "a.test", 5)
    await until(lambda: counted(stage) == 5 and _confirmed(stage) > 0, "five are confirmed")
    stage.node.stop("agent")
    (stage.node.folder / "usage.json").unlink()
    stored = dict(stage.control.stored)
    stage.control.confirming = False
    await visit(stage.node, "a.test", 2)
    stage.control.batches.clear()
    stage.node.start("agent")
    batch = await until(
        lambda: next((b for b in stage.control.batches if b.cells), None), "an overlapping range"
    )
    assert batch.start == 0
    assert batch.end > stored[batch.log]
    stage.control.batches.clear()
    stage.control.confirming = True
    await stage.control.say_confirmed(batch, stored[batch.log])
    again = await until(
        lambda: next((b for b in stage.control.batches if b.cells), None), "the rest"
    )
    assert again.start == stored[batch.log]
    assert sum(cell.https_requests for cell in again.cells) == 2


async def test_a_confirmation_that_billing_did_not_sign_is_dropped(stage: Stage) -> None:
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    stage.control.confirming = False
    await visit(stage.node, "a.test", 2)
    batch = await until(
        lambda: next((b for b in stage.control.batches if b.cells), None), "the range"
    )
    stage.signers.billing, true = stage.signers.validator, stage.signers.billing
    await stage.control.say_confirmed(batch, batch.end)
    await until(lambda: "usage.dropped" in stage.node.log("agent"), "it is dropped")
    assert _confirmed(stage) == 0
    stage.signers.billing = true
    await stage.control.say_confirmed(batch, batch.end)
    await until(lambda: _confirmed(stage) == batch.end, "the true one counts")


async def test_a_full_log_is_rotated_and_deleted_when_final_and_confirmed(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage(USAGE_LOG_BYTES="4096")
    stage.node.start()
    await stage.node.serves("a.test", await stage.https("a.test", 1))
    stage.control.confirming = False
    await visit(stage.node, "a.test", 150)
    await until(lambda: len({b.log for b in stage.control.batches}) == 2, "a second log is read")
    old = min(b.log for b in stage.control.batches)
    final = await until(
        lambda: next((b for b in stage.control.batches if b.log == old and b.final), None),
        "the end is told",
    )
    path = stage.node.folder / "usage" / f"{old}.log"
    assert path.exists()
    stage.control.confirming = True
    for batch in sorted(stage.control.batches, key=lambda one: (one.log, one.start)):
        await stage.control.confirm(batch)
    await until(lambda: not path.exists(), "it is deleted once confirmed", limit=12)
    assert stage.control.stored[old] == final.end
    assert counted(stage) == 150
    follower = await until(
        lambda: next((b for b in stage.control.batches if b.log != old and b.previous), None),
        "the next log names the end of the one before",
        limit=12,
    )
    assert follower.previous is not None
    assert (follower.previous.log, follower.previous.length) == (old, final.end)
    notes = stage.node.folder / "usage.json"
    await until(lambda: old not in json.loads(notes.read_text()), "it is out of the notes")


def _ranges(stage: Stage) -> set[tuple[str, int, int]]:
    return {(b.log, b.start, b.end) for b in stage.control.batches if b.cells}


def _confirmed(stage: Stage) -> int:
    statuses = stage.control.statuses
    return (
        max((position.confirmed_to for position in statuses[-1].logs), default=0) if statuses else 0
    )
