"""Origins: every address is used, and what an origin does not answer has a named reason."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clients.edge_node.nginx.entry import EntryOrigin
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import CA, NginxNode, https_entry
from tests.integration.edge_node.raw_origin import origin_at, raw_origin
from tests.support.browser import HttpResponse, OriginServer

METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]


@pytest.fixture
async def hasty_node(tmp_path: Path, origin: OriginServer) -> AsyncIterator[NginxNode]:
    """A node that waits for origins 0.5 s at most."""
    ca_file = tmp_path / "origin-ca.pem"
    CA.cert_pem.write_to_path(str(ca_file))
    layout = node_layout(
        tmp_path / "node",
        origin_ca_file=ca_file,
        origin_connect_seconds=0.5,
        origin_read_seconds=0.5,
    )
    running = NginxNode(layout, origin)
    await running.start()
    yield running
    await running.stop()


@contextmanager
def silent_address(host: str, port: int) -> Iterator[None]:
    """An address that answers no connection: its queue of one is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind((host, port))
        server.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield


async def send_requests(
    node: NginxNode, methods: list[str], body: bytes = b"", **settings: str
) -> list[HttpResponse]:
    answers = []
    for method in methods:
        async with await node.connect_https("a.test") as visitor:
            head = f"{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {len(body)}\r\n\r\n"
            answers.append(await visitor.send_raw(head.encode() + body))
    return answers


@pytest.mark.parametrize("body", [b"", b"x" * 300_000], ids=["no body", "a body"])
async def test_a_refused_connect_moves_any_request_on_to_the_next_address(
    node: NginxNode, origin: OriginServer, body: bytes
) -> None:
    port = origin.port
    addresses = (f"127.0.0.9:{port}", f"[::1]:{port}", f"127.0.0.1:{port}", f"127.0.0.8:{port}")
    await node.put_entries(https_entry("a.test", origin=EntryOrigin(addresses=addresses)))
    answers = await send_requests(node, METHODS * 4, body)
    assert {answer.status for answer in answers} == {200}
    assert len(origin.requests) == len(answers)
    assert (await node.get_http("a.test")).status == 200


async def test_an_ipv6_address_is_used_where_ipv4_does_not_answer(
    node: NginxNode, origin: OriginServer
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv6")

    async with raw_origin(answer, host="::1") as port:
        both = EntryOrigin(addresses=(f"127.0.0.1:{port}", f"[::1]:{port}"))
        await node.put_entries(https_entry("a.test", origin=both))
        answers = await send_requests(node, METHODS * 2)
    assert {answer.body for answer in answers} == {b"v6"}


async def test_a_silent_address_is_left_alone_after_one_wait(
    hasty_node: NginxNode, origin: OriginServer
) -> None:
    two = EntryOrigin(addresses=(f"127.0.0.7:{origin.port}", f"127.0.0.1:{origin.port}"))
    await hasty_node.put_entries(https_entry("a.test", origin=two))
    with silent_address("127.0.0.7", origin.port):
        started = asyncio.get_running_loop().time()
        answers = await send_requests(hasty_node, ["POST"] * 20)
    assert {answer.status for answer in answers} == {200}
    # Each of 20 waits would be half a second.
    assert asyncio.get_running_loop().time() - started < 3


async def test_of_many_addresses_those_that_answer_are_found(
    node: NginxNode, origin: OriginServer
) -> None:
    port = origin.port
    hosts = [f"127.0.1.{n}:{port}" for n in range(12)] + [f"127.0.0.1:{port}"]
    await node.put_entries(https_entry("a.test", origin=EntryOrigin(addresses=tuple(hosts))))
    answers = await send_requests(node, ["GET"] * 6)
    assert answers[-1].status == 200


async def test_an_origin_without_an_address_is_a_502_with_its_reason(node: NginxNode) -> None:
    assert await node.data_plane.put_many([https_entry("a.test")]) == {}
    for answer in (await node.get_https("a.test"), await node.get_http("a.test")):
        assert answer.status == 502
        assert answer.headers["proxy-status"] == "edgetls; error=dns_error"


async def test_a_refusing_origin_is_a_502_with_its_reason_and_the_domains_hsts(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("a.test", origin=origin_at(1), hsts="max-age=1"))
    answer = await node.get_https("a.test")
    assert answer.status == 502
    assert answer.headers["proxy-status"] == "edgetls; error=connection_refused"
    assert answer.headers["strict-transport-security"] == "max-age=1"
    assert (await node.get_http("a.test")).headers["proxy-status"] == answer.headers["proxy-status"]


async def test_a_silent_origin_is_a_504_with_its_reason(
    hasty_node: NginxNode, origin: OriginServer
) -> None:
    silent = replace(origin_at(origin.port), addresses=(f"127.0.0.7:{origin.port}",))
    await hasty_node.put_entries(https_entry("a.test", origin=silent))
    with silent_address("127.0.0.7", origin.port):
        answer = await hasty_node.get_https("a.test")
    assert answer.status == 504
    assert answer.headers["proxy-status"] == "edgetls; error=connection_timeout"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_origin_that_answers_late_is_a_504_and_is_asked_once(
    hasty_node: NginxNode, method: str
) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async with raw_origin(answer) as port:
        await hasty_node.put_entries(https_entry("a.test", origin=origin_at(port)))
        [late] = await send_requests(hasty_node, [method])
    assert late.status == 504
    assert late.headers["proxy-status"] == "edgetls; error=connection_read_timeout"
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "connection_terminated"),
        (b"HTTP/1.1 200 OK\r\nno name\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "http_protocol_error"),
    ],
)
async def test_an_origin_that_gives_no_answer_is_a_502_with_its_reason(
    node: NginxNode, sent: bytes, error: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)

    async with raw_origin(answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        answered = await node.get_https("a.test")
    assert answered.status == 502
    assert answered.headers["proxy-status"] == f"edgetls; error={error}"


async def test_an_https_origin_that_cannot_be_verified_is_a_502_with_a_reason(
    node: NginxNode,
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("elsewhere.test").configure_cert(tls)
    secure = OriginServer()
    await secure.start(tls)
    try:
        origin = EntryOrigin("https", (f"127.0.0.1:{secure.port}",), "origin.test")
        await node.put_entries(https_entry("a.test", origin=origin))
        answer = await node.get_https("a.test")
    finally:
        await secure.stop()
    assert answer.status == 502
    assert answer.headers["proxy-status"].startswith("edgetls; error=destination_unavailable")


async def test_a_loop_names_itself(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"))
    answer = await node.get_https("a.test", CDN_Loop="edgetls")
    assert answer.status == 508
    assert answer.headers["proxy-status"] == "edgetls; error=proxy_loop_detected"


async def test_an_answer_of_the_origin_has_no_proxy_status(
    node: NginxNode, origin: OriginServer
) -> None:
    for status in (200, 502, 504):
        origin.answer = b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nmine" % status
        await node.put_entries(https_entry("a.test"))
        answer = await node.get_https("a.test")
        assert (answer.status, answer.body) == (status, b"mine")
        assert "proxy-status" not in answer.headers
