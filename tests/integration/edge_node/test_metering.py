"""Every metered request is one line; every byte of the log is counted once."""

import asyncio
import ssl
from collections import Counter

import pytest

from clients.edge_node.nginx.entry import Entry, Origin
from clients.edge_node.usage.log_counter import Cell, Range
from clients.edge_node.usage.logs import LogReader, UsageLogError
from tests.integration.edge_node.harness import Node, https_entry
from tests.support.waiting import until


def totals(*ranges: Range) -> dict[str, Cell]:
    """Counts by domain, over all minutes."""
    found: dict[str, Cell] = {}
    for part in ranges:
        assert part.bad_lines == 0
        for (domain, _), cell in part.cells.items():
            total = found.setdefault(domain, Cell())
            total.https_requests += cell.https_requests
            total.https_bytes += cell.https_bytes
            total.http_requests += cell.http_requests
            total.http_bytes += cell.http_bytes
    return found


def read_all(node: Node, log_id: str, final: bool = False, limit: int = 1024 * 1024) -> list[Range]:
    reader, found = LogReader(node.logs, log_id, limit=limit), []
    while part := reader.read(final):
        found.append(part)
    return found


async def counted(node: Node, requests: int) -> dict[str, Cell]:
    """The totals once `requests` lines are there: nginx writes the line after the answer's last
    byte."""
    log = node.logs.current_id()

    async def all_lines() -> bool:
        return (
            sum(c.https_requests + c.http_requests for c in totals(*read_all(node, log)).values())
            >= requests
        )

    await until(all_lines, f"{requests} lines are in the log")
    return totals(*read_all(node, log))


async def test_requests_and_their_bytes_are_counted_exactly_by_entry_and_scheme(node: Node) -> None:
    await node.put(https_entry("a.test"), https_entry("*.img.example.test"))
    sent = Counter[str]()
    async with await node.visit("a.test") as visitor:
        for n in range(150):
            sent["a.test"] += (await visitor.get("a.test", f"/{n}")).size
    for n in range(20):
        sent["img"] += (await node.https(f"{n}.img.example.test")).size
        sent["http"] += (await node.http("a.test")).size
    assert await counted(node, 190) == {
        "a.test": Cell(150, sent["a.test"], 20, sent["http"]),
        "*.img.example.test": Cell(20, sent["img"], 0, 0),
    }


async def test_every_status_of_a_known_sni_is_billed_redirects_included(node: Node) -> None:
    await node.put(
        https_entry("to-http.test", redirect_mode="to_http"),
        https_entry("away.test", origin=Origin(addresses=("127.0.0.1:1",))),
        https_entry("a.test"),
    )
    assert (await node.https("to-http.test")).status == 301
    assert (await node.https("away.test")).status == 502
    assert (await node.https("a.test", CDN_Loop="edgetls")).status == 508
    async with await node.visit("a.test") as visitor:
        assert (await visitor.get("a.test", method="TRACE")).status == 405
    async with await node.visit("a.test") as visitor:
        assert (
            await visitor.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nX: \0\r\n\r\n")
        ).status == 400
    found = await counted(node, 5)
    assert {domain: cell.https_requests for domain, cell in found.items()} == {
        "to-http.test": 1,
        "away.test": 1,
        "a.test": 3,
    }


async def test_what_was_refused_is_not_billed(node: Node) -> None:
    await node.put(https_entry("a.test"), https_entry("b.test"), https_entry("c.test"))
    assert (await node.https("a.test", "b.test")).status == 421
    async with await node.visit("a.test") as visitor:
        assert (await visitor.send(b"GET / HTTP/1.1\r\n\r\n")).status == 400
    async with await node.visit("a.test") as visitor:
        assert (await visitor.send(b"\0\r\n\r\n")).status == 400
    assert (await node.http("unknown.test")).status == 421
    async with await node.visit("c.test") as kept_alive:
        await node.put(Entry("c.test", 2, "suspended"))
        assert (await kept_alive.get("c.test")).status == 421
        with pytest.raises(ssl.SSLError):
            await node.visit("c.test")
    assert (await node.https("b.test")).status == 200
    found = await counted(node, 1)
    assert {domain: cell.https_requests for domain, cell in found.items()} == {"b.test": 1}


async def test_a_request_under_way_when_its_domain_is_removed_is_still_billed(node: Node) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
        origin = Origin(addresses=(f"127.0.0.1:{server.sockets[0].getsockname()[1]}",))
        await node.put(https_entry("a.test", origin=origin))
        request = asyncio.create_task(node.https("a.test"))
        await arrived.wait()
        await node.plane.remove_many(["a.test"])
        go_on.set()
        assert (await request).status == 200
    assert (await counted(node, 1))["a.test"].https_requests == 1


async def test_a_range_read_again_is_equal_and_small_ranges_add_up_to_the_whole(node: Node) -> None:
    await node.put(https_entry("a.test"))
    async with await node.visit("a.test") as visitor:
        for _ in range(100):
            await visitor.get("a.test")
    whole = await counted(node, 100)
    log = node.logs.current_id()
    parts = read_all(node, log, limit=300)
    assert len(parts) > 10
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert parts[-1].end == node.logs.size(log)
    assert totals(*parts) == whole
    assert [node.logs.read_range(log, part.start, part.end) for part in parts] == parts
    with pytest.raises(UsageLogError, match="before"):
        node.logs.read_range(log, 0, parts[-1].end + 1)


async def test_rotation_under_load_loses_and_doubles_nothing(node: Node) -> None:
    await node.put(https_entry("a.test"))
    done, answers = asyncio.Event(), Counter[str]()

    async def visit_on_and_on() -> None:
        while not done.is_set():
            async with await node.visit("a.test") as visitor:
                for _ in range(500):  # nginx closes a connection after a thousand
                    answers.update(requests=1, bytes=(await visitor.get("a.test")).size)
                    if done.is_set():
                        break

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(visit_on_and_on())
        old_logs = []
        for _ in range(5):
            wanted = answers["requests"] + 60
            await until(lambda wanted=wanted: answers["requests"] >= wanted, "requests go on")  # type: ignore[misc]
            old = node.logs.rotate(node.reopen)
            assert await node.until_final(old) > 0
            old_logs.append(old)
        done.set()
    logs = [*old_logs, node.logs.current_id()]
    assert node.logs.ids() == logs

    async def all_counted() -> bool:
        found = totals(*(part for log in logs for part in read_all(node, log)))
        return found["a.test"].https_requests >= answers["requests"]

    await until(all_counted, "every answer is counted")
    found = totals(*(part for log in logs for part in read_all(node, log)))
    assert found == {"a.test": Cell(answers["requests"], answers["bytes"], 0, 0)}


async def test_a_log_is_deleted_only_when_it_is_final_and_confirmed_to_its_end(node: Node) -> None:
    await node.put(https_entry("a.test"))
    await node.https("a.test")
    await counted(node, 1)
    log = node.logs.current_id()
    with pytest.raises(UsageLogError, match="kept"):
        node.logs.delete(log, node.logs.size(log))
    assert node.logs.rotate(lambda: None) == log
    assert node.logs.final_length(log) is None, "nginx has not opened the new one yet"
    with pytest.raises(UsageLogError, match="kept"):
        node.logs.delete(log, node.logs.size(log))
    node.reopen()
    length = await node.until_final(log)
    with pytest.raises(UsageLogError, match="kept"):
        node.logs.delete(log, length - 1)
    node.logs.delete(log, length)
    assert node.logs.ids() == [node.logs.current_id()]


async def test_a_crash_of_nginx_goes_on_with_the_same_log_and_its_torn_line_spoils_no_other(
    node: Node,
) -> None:
    await node.put(https_entry("a.test"))
    await node.https("a.test")
    await counted(node, 1)
    log = node.logs.current_id()
    assert node.process is not None
    node.process.kill()
    await node.process.wait()
    with (node.layout.folder / "usage" / "current.log").open("ab") as file:
        file.write(b"1767225600.123 https a.te")
    await node.start()
    assert node.logs.current_id() == log
    await node.put(https_entry("a.test"))
    await node.https("a.test")

    def whole() -> Range:
        return node.logs.read_range(log, 0, node.logs.size(log))

    async def second_is_there() -> bool:
        return sum(cell.https_requests for cell in whole().cells.values()) == 2

    await until(second_is_there, "both requests are counted")
    assert whole().bad_lines == 1
