"""Connections to origins are kept and used again, for one origin and one name."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clients.edge_node.nginx.entry import EntryOrigin
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import CA, NginxNode, https_entry
from tests.integration.edge_node.raw_origin import origin_at, raw_origin
from tests.integration.edge_node.test_usage_counting import wait_for_totals
from tests.support.browser import OriginServer
from tests.support.waiting import until


class CountingOrigin:
    """Answers each request with the number of its connection."""

    def __init__(self, answers_each: int = 1_000_000) -> None:
        self.connections = 0
        self.requests = 0
        self._answers_each = answers_each

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        body = b"%06d" % self.connections
        for _ in range(self._answers_each):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + body)


@asynccontextmanager
async def tls_origin(counting: CountingOrigin, *names: str) -> AsyncIterator[int]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names).configure_cert(tls)
    async with raw_origin(counting.answer, tls=tls) as port:
        yield port


async def wait_for_reuse(node: NginxNode, name: str, counting: CountingOrigin) -> None:
    """Send requests until one of them takes no new connection."""

    async def is_reused() -> bool:
        connections, requests = counting.connections, counting.requests
        assert (await node.get_https(name)).status == 200
        return counting.connections == connections and counting.requests > requests

    await until(is_reused, "a connection is used again", every=0.1)


async def test_connections_are_used_again_and_each_request_is_one_line(node: NginxNode) -> None:
    counting = CountingOrigin()
    async with raw_origin(counting.answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        await wait_for_reuse(node, "a.test", counting)
        before = counting.connections
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(get_many(node, "a.test", 25))
        # One for each that was under way at once, in each of two workers.
        assert counting.connections - before <= 8
        totals = await wait_for_totals(node, counting.requests)
        assert totals["a.test"].https_requests == counting.requests


async def get_many(node: NginxNode, name: str, count: int) -> None:
    async with await node.connect_https(name) as visitor:
        for _ in range(count):
            assert (await visitor.get(name)).status == 200


async def test_a_request_that_must_not_be_repeated_gets_a_connection_of_its_own(
    node: NginxNode,
) -> None:
    counting = CountingOrigin()
    async with raw_origin(counting.answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        await wait_for_reuse(node, "a.test", counting)
        before = counting.connections
        async with await node.connect_https("a.test") as visitor:
            for _ in range(5):
                answer = await visitor.get("a.test", method="POST", Content_Length="0")
                assert answer.status == 200
        assert counting.connections == before + 5


async def test_a_kept_connection_that_the_origin_closed_fails_no_request(node: NginxNode) -> None:
    counting = CountingOrigin(answers_each=2)
    async with raw_origin(counting.answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        await wait_for_reuse(node, "a.test", counting)
        await get_many(node, "a.test", 200)


async def test_two_names_at_one_address_share_no_connection(node: NginxNode) -> None:
    counting = CountingOrigin()
    async with tls_origin(counting, "good.test") as port:
        good = EntryOrigin("https", (f"127.0.0.1:{port}",), "good.test")
        await node.put_entries(
            https_entry("a.test", origin=good),
            https_entry("b.test", origin=replace(good, name="other.test")),
        )
        await wait_for_reuse(node, "a.test", counting)
        await get_many(node, "a.test", 20)
        for _ in range(20):
            assert (await node.get_https("b.test")).status == 502
            assert (await node.get_https("a.test")).status == 200


async def test_an_https_origin_without_a_name_has_no_pool(node: NginxNode) -> None:
    counting = CountingOrigin()
    async with tls_origin(counting, "x.example.test") as port:
        by_address = EntryOrigin("https", (f"127.0.0.1:{port}",))
        await node.put_entries(https_entry("*.example.test", origin=by_address))
        await asyncio.sleep(2.5)
        before = counting.connections
        for _ in range(5):
            assert (await node.get_https("x.example.test")).status == 200
            assert (await node.get_https("y.example.test")).status == 502
        assert counting.requests == 5
        assert counting.connections >= before + 5


async def test_new_addresses_of_an_origin_take_over(node: NginxNode) -> None:
    old, new = CountingOrigin(), CountingOrigin()
    async with raw_origin(old.answer) as port, raw_origin(new.answer, "127.0.0.2", port):
        first = EntryOrigin(addresses=(f"127.0.0.1:{port}",), name="origin.test")
        await node.put_entries(https_entry("a.test", origin=first))
        await wait_for_reuse(node, "a.test", old)
        second = replace(first, addresses=(f"127.0.0.2:{port}",))
        await node.put_entries(https_entry("a.test", origin=second, revision=2))
        await wait_for_reuse(node, "a.test", new)
        before = old.requests
        await get_many(node, "a.test", 10)
        assert old.requests == before


async def test_an_address_that_stops_answering_fails_no_request(node: NginxNode) -> None:
    counting, other = CountingOrigin(), CountingOrigin()
    async with raw_origin(counting.answer) as port:
        both = EntryOrigin(addresses=(f"127.0.0.1:{port}", f"127.0.0.2:{port}"))
        async with raw_origin(other.answer, "127.0.0.2", port):
            await node.put_entries(https_entry("a.test", origin=both))
            await wait_for_reuse(node, "a.test", counting)
        await get_many(node, "a.test", 50)


async def test_more_origins_than_pools_are_served(tmp_path: Path, origin: OriginServer) -> None:
    node = NginxNode(node_layout(tmp_path / "node", origin_pools=2), origin)
    await node.start()
    try:
        names = [f"{n}.test" for n in range(6)]
        for name in names:
            here = EntryOrigin(addresses=(f"127.0.0.1:{origin.port}",), name=f"origin-{name}")
            await node.put_entries(https_entry(name, origin=here))
        await asyncio.sleep(2.5)
        for name in names * 3:
            assert (await node.get_https(name)).status == 200
    finally:
        await node.stop()


@pytest.mark.parametrize("status", [200, 404, 502])
async def test_an_answer_over_a_kept_connection_is_the_origins(
    node: NginxNode, origin: OriginServer, status: int
) -> None:
    await node.put_entries(https_entry("a.test"))
    await asyncio.sleep(2.5)
    origin.answer = b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nmine" % status
    for _ in range(5):
        answer = await node.get_https("a.test")
        assert (answer.status, answer.body) == (status, b"mine")
        assert "proxy-status" not in answer.headers
