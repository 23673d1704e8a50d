"""Every metered request is one line; every byte of the log is counted once."""

import asyncio
import ssl
from collections import Counter

import pytest

from clients.edge_node.nginx.entry import EntryOrigin, NginxEntry
from clients.edge_node.usage.log_counter import CellCounts, CountedRange
from clients.edge_node.usage.logs import LogReader, UsageLogError
from tests.integration.edge_node.nginx_node import NginxNode, https_entry
from tests.support.waiting import until


def add_up_counts(*ranges: CountedRange) -> dict[str, CellCounts]:
    """Add up counts by domain, over all minutes."""
    found: dict[str, CellCounts] = {}
    for part in ranges:
        assert part.bad_lines == 0
        for (domain, _), cell in part.cells.items():
            total = found.setdefault(domain, CellCounts())
            total.https_requests += cell.https_requests
            total.https_bytes += cell.https_bytes
            total.http_requests += cell.http_requests
            total.http_bytes += cell.http_bytes
    return found


def read_ranges(
    node: NginxNode, log_id: str, final: bool = False, limit: int = 1024 * 1024
) -> list[CountedRange]:
    reader = LogReader(node.usage_logs, log_id, limit=limit)
    found: list[CountedRange] = []
    while part := reader.read_next(final):
        found.append(part)
    return found


async def wait_for_totals(node: NginxNode, requests: int) -> dict[str, CellCounts]:
    """Wait for `requests` lines and return the totals.

    nginx writes the line after the last byte of the answer."""
    log = node.usage_logs.current_id()

    async def all_lines() -> bool:
        count = 0
        for cell in add_up_counts(*read_ranges(node, log)).values():
            count += cell.https_requests + cell.http_requests
        return count >= requests

    await until(all_lines, f"{requests} lines are in the log")
    return add_up_counts(*read_ranges(node, log))


async def test_requests_and_their_bytes_are_counted_exactly_by_entry_and_scheme(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("a.test"), https_entry("*.img.example.test"))
    sent = Counter[str]()
    async with await node.connect_https("a.test") as visitor:
        for n in range(150):
            sent["a.test"] += (await visitor.get("a.test", f"/{n}")).size
    for n in range(20):
        sent["img"] += (await node.get_https(f"{n}.img.example.test")).size
        sent["http"] += (await node.get_http("a.test")).size
    assert await wait_for_totals(node, 190) == {
        "a.test": CellCounts(150, sent["a.test"], 20, sent["http"]),
        "*.img.example.test": CellCounts(20, sent["img"], 0, 0),
    }


async def test_every_status_of_a_known_sni_is_billed_redirects_included(node: NginxNode) -> None:
    await node.put_entries(
        https_entry("to-http.test", redirect_mode="to_http"),
        https_entry("away.test", origin=EntryOrigin(addresses=("127.0.0.1:1",))),
        https_entry("a.test"),
    )
    assert (await node.get_https("to-http.test")).status == 301
    assert (await node.get_https("away.test")).status == 502
    assert (await node.get_https("a.test", CDN_Loop="edgetls")).status == 508
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.get("a.test", method="TRACE")).status == 405
    async with await node.connect_https("a.test") as visitor:
        assert (
            await visitor.send_raw(b"GET / HTTP/1.1\r\nHost: a.test\r\nX: \0\r\n\r\n")
        ).status == 400
    found = await wait_for_totals(node, 5)
    assert {domain: cell.https_requests for domain, cell in found.items()} == {
        "to-http.test": 1,
        "away.test": 1,
        "a.test": 3,
    }


async def test_a_refused_request_is_not_billed(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"), https_entry("b.test"), https_entry("c.test"))
    assert (await node.get_https("a.test", "b.test")).status == 421
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.send_raw(b"GET / HTTP/1.1\r\n\r\n")).status == 400
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.send_raw(b"\0\r\n\r\n")).status == 400
    assert (await node.get_http("unknown.test")).status == 421
    async with await node.connect_https("c.test") as kept_alive:
        await node.put_entries(NginxEntry("c.test", 2, "suspended"))
        assert (await kept_alive.get("c.test")).status == 421
        with pytest.raises(ssl.SSLError):
            await node.connect_https("c.test")
    assert (await node.get_https("b.test")).status == 200
    found = await wait_for_totals(node, 1)
    assert {domain: cell.https_requests for domain, cell in found.items()} == {"b.test": 1}


async def test_a_request_under_way_when_its_domain_is_removed_is_still_billed(
    node: NginxNode,
) -> None:
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_late, "127.0.0.1", 0) as server:
        origin = EntryOrigin(addresses=(f"127.0.0.1:{server.sockets[0].getsockname()[1]}",))
        await node.put_entries(https_entry("a.test", origin=origin))
        request = asyncio.create_task(node.get_https("a.test"))
        await arrived.wait()
        await node.data_plane.remove_many(["a.test"])
        go_on.set()
        assert (await request).status == 200
    assert (await wait_for_totals(node, 1))["a.test"].https_requests == 1


async def test_a_range_read_again_is_equal_and_small_ranges_add_up_to_the_whole(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("a.test"))
    async with await node.connect_https("a.test") as visitor:
        for _ in range(100):
            await visitor.get("a.test")
    whole = await wait_for_totals(node, 100)
    log = node.usage_logs.current_id()
    parts = read_ranges(node, log, limit=300)
    assert len(parts) > 10
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert parts[-1].end == node.usage_logs.log_size(log)
    assert add_up_counts(*parts) == whole
    assert [node.usage_logs.read_range(log, part.start, part.end) for part in parts] == parts
    with pytest.raises(UsageLogError, match="before"):
        node.usage_logs.read_range(log, 0, parts[-1].end + 1)


async def test_rotation_under_load_loses_and_doubles_nothing(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"))
    done = asyncio.Event()
    answers = Counter[str]()

    async def send_requests() -> None:
        while not done.is_set():
            async with await node.connect_https("a.test") as visitor:
                for _ in range(500):  # nginx closes a connection after a thousand
                    answers.update(requests=1, bytes=(await visitor.get("a.test")).size)
                    if done.is_set():
                        break

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(send_requests())
        old_logs = []
        for _ in range(5):
            wanted = answers["requests"] + 60
            await until(lambda wanted=wanted: answers["requests"] >= wanted, "requests go on")
            old = node.usage_logs.rotate(node.reopen_logs)
            assert await node.wait_until_final(old) > 0
            old_logs.append(old)
        done.set()
    logs = [*old_logs, node.usage_logs.current_id()]
    assert node.usage_logs.list_ids() == logs

    async def all_counted() -> bool:
        found = add_up_counts(*(part for log in logs for part in read_ranges(node, log)))
        return found["a.test"].https_requests >= answers["requests"]

    await until(all_counted, "every answer is counted")
    found = add_up_counts(*(part for log in logs for part in read_ranges(node, log)))
    assert found == {"a.test": CellCounts(answers["requests"], answers["bytes"], 0, 0)}


async def test_a_log_is_deleted_only_when_it_is_final_and_confirmed_to_its_end(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("a.test"))
    await node.get_https("a.test")
    await wait_for_totals(node, 1)
    log = node.usage_logs.current_id()
    with pytest.raises(UsageLogError, match="kept"):
        node.usage_logs.delete_log(log, node.usage_logs.log_size(log))
    assert node.usage_logs.rotate(lambda: None) == log
    assert node.usage_logs.final_length(log) is None, "nginx has not opened the new one yet"
    with pytest.raises(UsageLogError, match="kept"):
        node.usage_logs.delete_log(log, node.usage_logs.log_size(log))
    node.reopen_logs()
    length = await node.wait_until_final(log)
    with pytest.raises(UsageLogError, match="kept"):
        node.usage_logs.delete_log(log, length - 1)
    node.usage_logs.delete_log(log, length)
    assert node.usage_logs.list_ids() == [node.usage_logs.current_id()]


async def test_a_crash_of_nginx_goes_on_with_the_same_log_and_its_torn_line_spoils_no_other(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("a.test"))
    await node.get_https("a.test")
    await wait_for_totals(node, 1)
    log = node.usage_logs.current_id()
    await node.nginx.kill_and_wait()
    with (node.layout.folder / "usage" / "current.log").open("ab") as file:
        file.write(b"1767225600.123 https a.te")
    await node.start()
    assert node.usage_logs.current_id() == log
    await node.put_entries(https_entry("a.test"))
    await node.get_https("a.test")

    def count_all() -> CountedRange:
        return node.usage_logs.read_range(log, 0, node.usage_logs.log_size(log))

    async def second_is_there() -> bool:
        return sum(cell.https_requests for cell in count_all().cells.values()) == 2

    await until(second_is_there, "both requests are counted")
    assert count_all().bad_lines == 1
