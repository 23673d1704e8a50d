"""An interim answer of an origin (1xx) is passed or skipped, and never taken for the answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.edge_node.http2_visitor import Http2Visitor
from tests.integration.edge_node.nginx_node import NginxNode, https_entry
from tests.integration.edge_node.raw_origin import origin_at, raw_origin
from tests.integration.edge_node.test_usage_counting import wait_for_totals
from tests.support.browser import HttpConnection

FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal"
INTERIM = {
    100: b"HTTP/1.1 100 Continue\r\n\r\n",
    102: b"HTTP/1.1 102 Processing\r\n\r\n",
    103: b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: keep-alive\r\n\r\n",
}


@pytest.fixture(params=INTERIM)
async def interim_port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """An origin that sends an interim answer first and reads a body of the length that it has."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            writer.write(INTERIM[request.param])
            if b"content-length: " in head:
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            await asyncio.sleep(0.05)
            writer.write(FINAL)
            if b"connection: close" in head:
                return

    async with raw_origin(answer) as port:
        yield port


async def get_final(visitor: HttpConnection, body: bytes = b"") -> bytes:
    request = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(body)
    if not body:
        request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    return await visitor.exchange_bytes(request + body, lambda data: data.endswith(b"final"))


async def test_the_answer_after_it_reaches_an_http1_visitor(
    node: NginxNode, interim_port: int
) -> None:
    await node.put_entries(https_entry("a.test", origin=origin_at(interim_port)))
    for connect in (lambda: node.connect_https("a.test"), node.connect_http):
        for body in (b"", b"x" * 1000):
            async with await connect() as visitor:
                for _ in range(3):
                    received = await get_final(visitor, body)
                    assert received.count(b"HTTP/1.1 200 OK\r\n") == 1
                    assert received.endswith(b"\r\n\r\nfinal")
    totals = await wait_for_totals(node, 12)
    assert (totals["a.test"].https_requests, totals["a.test"].http_requests) == (6, 6)


async def test_the_answer_after_it_reaches_an_http2_visitor_once_the_origin_is_known(
    node: NginxNode, interim_port: int
) -> None:
    await node.put_entries(https_entry("a.test", origin=origin_at(interim_port), http2=True))
    async with await node.connect_https("a.test") as visitor:
        await get_final(visitor)
    async with await node.connect_https("a.test", alpn=("h2",)) as connection:
        visitor_2 = Http2Visitor(connection, "a.test")
        status = await visitor_2.get_status()
        if status == 103:
            status = await visitor_2.next_status()
        assert status == 200
        assert await visitor_2.read_data() == b"final"
