"""Served requests are reported until billing has confirmed them, over crashes of every process."""

from __future__ import annotations

import asyncio
import json
import ssl

from deploy.embedded.ports import HOST
from shared.contracts.edge import LogPosition
from tests.integration.edge_agent.conftest import EdgeSetup, MakeEdge
from tests.integration.edge_agent.node_processes import NodeProcesses
from tests.support.waiting import until


async def send_requests(node: NodeProcesses, name: str, times: int) -> None:
    """Send requests on one connection.

    There is no origin, so each is answered 502, which is billed like any other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
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


def count_requests(edge: EdgeSetup) -> int:
    """Return the requests in distinct ranges: a repeated range counts once."""
    ranges = {(b.log, b.start, b.end): b for b in edge.control_plane.batches}
    return sum(cell.https_requests for batch in ranges.values() for cell in batch.cells)


async def test_requests_are_counted_once_and_confirmed(edge: EdgeSetup) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    await send_requests(edge.node, "a.test", 30)
    await until(lambda: count_requests(edge) == 30, "all requests are reported")
    await until(lambda: confirmed_end(edge) > 0, "the node knows of the confirmation")
    batch = edge.control_plane.batches[-1]
    assert {cell.domain for b in edge.control_plane.batches for cell in b.cells} == {"a.test"}
    assert (batch.read_to, batch.bad_lines, batch.final) == (confirmed_end(edge), 0, False)
    positions = await until(
        lambda: edge.control_plane.statuses[-1].logs, "the status has positions"
    )
    assert positions == [
        LogPosition(log=batch.log, read_to=batch.read_to, confirmed_to=batch.read_to)
    ]


async def test_unconfirmed_ranges_are_sent_again_over_a_restart_of_agent_and_broker(
    edge: EdgeSetup,
) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    edge.control_plane.confirming = False
    for requests in (3, 4):
        before = count_requests(edge)
        await send_requests(edge.node, "a.test", requests)
        await until(
            lambda wanted=before + requests: count_requests(edge) == wanted, "the range is sent"
        )
    first = sent_ranges(edge)
    edge.control_plane.batches.clear()
    await until(lambda: first <= sent_ranges(edge), "they are sent again")
    await edge.node.crash("agent")
    edge.control_plane.batches.clear()
    await edge.node.start("agent")
    await until(lambda: first <= sent_ranges(edge), "the same ranges come after a crash")
    assert count_requests(edge) == 7
    await edge.restart_broker()
    edge.control_plane.confirming = True
    await edge.control_plane.start()
    await send_requests(edge.node, "a.test", 2)
    await until(
        lambda: count_requests(edge) == 9, "all nine are reported after the broker's return"
    )
    await until(
        lambda: confirmed_end(edge) == max(edge.control_plane.confirmed_ends.values()),
        "all is confirmed",
    )


async def test_a_node_that_lost_its_cursors_goes_on_from_the_end_that_billing_confirmed(
    edge: EdgeSetup,
) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    await send_requests(edge.node, "a.test", 5)
    await until(lambda: count_requests(edge) == 5 and confirmed_end(edge) > 0, "five are confirmed")
    await edge.node.stop("agent")
    (edge.node.folder / "usage.json").unlink()
    stored = dict(edge.control_plane.confirmed_ends)
    edge.control_plane.confirming = False
    await send_requests(edge.node, "a.test", 2)
    edge.control_plane.batches.clear()
    await edge.node.start("agent")
    batch = await until(
        lambda: next((b for b in edge.control_plane.batches if b.cells), None),
        "an overlapping range",
    )
    assert batch.start == 0
    assert batch.end > stored[batch.log]
    edge.control_plane.batches.clear()
    edge.control_plane.confirming = True
    await edge.control_plane.send_confirmation(batch, stored[batch.log])
    again = await until(
        lambda: next((b for b in edge.control_plane.batches if b.cells), None), "the rest"
    )
    assert again.start == stored[batch.log]
    assert sum(cell.https_requests for cell in again.cells) == 2


async def test_a_confirmation_that_billing_did_not_sign_is_rejected(edge: EdgeSetup) -> None:
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    edge.control_plane.confirming = False
    await send_requests(edge.node, "a.test", 2)
    batch = await until(
        lambda: next((b for b in edge.control_plane.batches if b.cells), None), "the range"
    )
    billing = edge.signers.billing
    edge.signers.billing = edge.signers.validator
    await edge.control_plane.send_confirmation(batch, batch.end)
    await until(lambda: "usage.rejected" in edge.node.read_log("agent"), "it is rejected")
    assert confirmed_end(edge) == 0
    edge.signers.billing = billing
    await edge.control_plane.send_confirmation(batch, batch.end)
    await until(lambda: confirmed_end(edge) == batch.end, "the true one counts")


async def test_a_full_log_is_rotated_and_deleted_when_final_and_confirmed(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge(USAGE_LOG_BYTES="4096")
    await edge.node.start()
    await edge.node.wait_until_served("a.test", await edge.put_https("a.test", 1))
    edge.control_plane.confirming = False
    await send_requests(edge.node, "a.test", 150)
    await until(
        lambda: len({b.log for b in edge.control_plane.batches}) == 2, "a second log is read"
    )
    old = min(b.log for b in edge.control_plane.batches)
    final = await until(
        lambda: next((b for b in edge.control_plane.batches if b.log == old and b.final), None),
        "the end is reported",
    )
    path = edge.node.folder / "usage" / f"{old}.log"
    assert path.exists()
    edge.control_plane.confirming = True
    for batch in sorted(edge.control_plane.batches, key=lambda one: (one.log, one.start)):
        await edge.control_plane.confirm_batch(batch)
    await until(lambda: not path.exists(), "it is deleted once confirmed")
    assert edge.control_plane.confirmed_ends[old] == final.end
    assert count_requests(edge) == 150
    follower = await until(
        lambda: next((b for b in edge.control_plane.batches if b.log != old and b.previous), None),
        "the next log names the end of the one before",
    )
    assert follower.previous is not None
    assert (follower.previous.log, follower.previous.length) == (old, final.end)
    cursors = edge.node.folder / "usage.json"
    await until(lambda: old not in json.loads(cursors.read_text()), "its cursor is gone")


def sent_ranges(edge: EdgeSetup) -> set[tuple[str, int, int]]:
    """Return (log, start, end) of every range that holds requests."""
    return {(b.log, b.start, b.end) for b in edge.control_plane.batches if b.cells}


def confirmed_end(edge: EdgeSetup) -> int:
    """Return the highest confirmed end that the node's last status reports."""
    statuses = edge.control_plane.statuses
    if not statuses:
        return 0
    return max((position.confirmed_to for position in statuses[-1].logs), default=0)
