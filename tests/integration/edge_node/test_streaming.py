"""Nothing is held back: bodies pass as they come, large heads and unusual names pass too."""

import asyncio

import pytest

from tests.integration.edge_node.http2_visitor import Http2Visitor
from tests.integration.edge_node.nginx_node import NginxNode, https_entry
from tests.integration.edge_node.raw_origin import origin_at, raw_origin
from tests.support.browser import HttpConnection, OriginServer

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: yes\r\n\r\n"
RAW_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n"
EVENT = b"data: 1\n\n"


async def connect(node: NginxNode, scheme: str) -> HttpConnection:
    if scheme == "https":
        return await node.connect_https("a.test")
    return await node.connect_http()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("head", "piece"),
    [(CHUNKED_HEAD, b"9\r\n" + EVENT + b"\r\n"), (RAW_HEAD, EVENT)],
    ids=["chunked", "raw"],
)
async def test_each_piece_of_a_response_arrives_before_the_next_is_sent(
    node: NginxNode, scheme: str, head: bytes, piece: bytes
) -> None:
    arrived = asyncio.Queue[None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await arrived.get()
        for _ in range(3):
            writer.write(piece)
            await arrived.get()

    async with raw_origin(answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        async with await connect(node, scheme) as visitor:
            request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
            assert b"200 OK" in await visitor.exchange_bytes(request, lambda d: b"\r\n\r\n" in d)
            for _ in range(3):
                arrived.put_nowait(None)
                assert EVENT in await visitor.exchange_bytes(b"", lambda d: EVENT in d)
            arrived.put_nowait(None)


@pytest.mark.parametrize("head", [CHUNKED_HEAD, RAW_HEAD], ids=["chunked", "raw"])
async def test_each_piece_arrives_at_once_on_http2(node: NginxNode, head: bytes) -> None:
    arrived = asyncio.Queue[None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await arrived.get()
        for _ in range(3):
            writer.write(b"9\r\n" + EVENT + b"\r\n" if head is CHUNKED_HEAD else EVENT)
            await arrived.get()

    async with raw_origin(answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port), http2=True))
        async with await node.connect_https("a.test", alpn=("h2",)) as connection:
            visitor = Http2Visitor(connection, "a.test")
            assert await visitor.get_status() == 200
            for _ in range(3):
                arrived.put_nowait(None)
                assert await visitor.read_data() == EVENT
            arrived.put_nowait(None)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_each_piece_of_an_upload_reaches_the_origin_before_the_next_is_sent(
    node: NginxNode, scheme: str, chunked: bool
) -> None:
    pieces = asyncio.Queue[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received = b""
        while received.count(b"piece") < 3:
            received += await reader.read(4096)
            pieces.put_nowait(received)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 15"
    piece = b"5\r\npiece\r\n" if chunked else b"piece"
    async with raw_origin(answer) as port:
        await node.put_entries(https_entry("a.test", origin=origin_at(port)))
        async with await connect(node, scheme) as visitor:
            head = b"POST / HTTP/1.1\r\nHost: a.test\r\n" + framing + b"\r\n\r\n"
            await visitor.exchange_bytes(head + piece, lambda _: True)
            for n in range(1, 4):
                async with asyncio.timeout(5):
                    while (await pieces.get()).count(b"piece") < n:
                        pass
                if n < 3:
                    await visitor.exchange_bytes(piece, lambda _: True)
            end = b"0\r\n\r\n" if chunked else b""
            answered = await visitor.exchange_bytes(end, lambda d: b"\r\n\r\n" in d)
            assert b"204" in answered


async def test_no_body_is_written_to_a_file(node: NginxNode, origin: OriginServer) -> None:
    await node.put_entries(https_entry("a.test"))
    size = 20 << 20
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    body = b"y" * size
    async with await node.connect_https("a.test") as visitor:
        head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % size
        assert len((await visitor.send_raw(head + body)).body) == size
    # nginx numbers its temporary files in folders that it makes with the first one.
    assert [path for path in (node.layout.folder / "tmp").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("lines", [1, 62])
async def test_an_origins_headers_of_62_kb_pass(
    node: NginxNode, origin: OriginServer, lines: int
) -> None:
    value = b"p" * (62_000 // lines)
    fields = b"".join(b"X-Pad-%d: %s\r\n" % (n, value) for n in range(lines))
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + fields + b"\r\nok"
    await node.put_entries(https_entry("a.test"))
    for answer in (await node.get_https("a.test"), await node.get_http("a.test")):
        assert (answer.status, answer.headers[f"x-pad-{lines - 1}"]) == (200, value.decode())


async def test_request_heads_pass_up_to_their_limits_and_are_refused_above(
    node: NginxNode, origin: OriginServer
) -> None:
    await node.put_entries(https_entry("a.test"))
    for get in (node.get_https, node.get_http):
        assert (await get("a.test", path="/" + "u" * 32_000)).status == 200
        assert origin.requests[-1].line == f"GET /{'u' * 32_000} HTTP/1.1"
        fields = {f"X{n}": "v" * 32_000 for n in range(3)}
        assert (await get("a.test", **fields)).status == 200
        assert origin.requests[-1].headers["x2"] == "v" * 32_000
        assert (await get("a.test", path="/" + "u" * 36_000)).status == 414
        assert (await get("a.test", X="v" * 36_000)).status == 400


async def test_names_with_underscores_and_dots_pass(node: NginxNode, origin: OriginServer) -> None:
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx_under: 1\r\nx.dot: 2\r\n\r\n"
    await node.put_entries(https_entry("a.test"))
    raw = b"GET / HTTP/1.1\r\nHost: a.test\r\napi_key: 1\r\nX.Token: 2\r\n\r\n"
    for visitor in (await node.connect_https("a.test"), await node.connect_http()):
        async with visitor:
            answer = await visitor.send_raw(raw)
        assert (answer.headers["x_under"], answer.headers["x.dot"]) == ("1", "2")
        seen = origin.requests[-1].headers
        assert (seen["api_key"], seen["x.token"]) == ("1", "2")


@pytest.mark.parametrize("name", ["X_Forwarded_For", "x-forwarded_for", "X_Forwarded-Proto"])
async def test_another_spelling_of_a_header_that_the_node_sets_is_dropped(
    node: NginxNode, origin: OriginServer, name: str
) -> None:
    await node.put_entries(https_entry("a.test"))
    raw = f"GET / HTTP/1.1\r\nHost: a.test\r\n{name}: 192.0.2.66\r\n\r\n".encode()
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.send_raw(raw)).status == 200
    assert "192.0.2.66" not in origin.requests[-1].headers.values()


@pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding", "CDN_Loop"])
async def test_another_spelling_of_a_framing_header_is_dropped(
    node: NginxNode, origin: OriginServer, name: str
) -> None:
    await node.put_entries(https_entry("a.test"))
    raw = f"GET / HTTP/1.1\r\nHost: a.test\r\n{name}: 5\r\n\r\n".encode()
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.send_raw(raw)).status == 200
    assert name.lower() not in origin.requests[-1].headers


@pytest.mark.parametrize(
    "field",
    [
        "X-Accel-Redirect: /elsewhere",
        "X-Accel-Limit-Rate: 1000",
        "X-Accel-Buffering: yes",
        "X-Accel-Charset: koi8-r",
        "X-Accel-Expires: 60",
    ],
)
async def test_an_origin_gives_the_node_no_orders(
    node: NginxNode, origin: OriginServer, field: str
) -> None:
    body = b"x" * 20_000
    origin.answer = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{field}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    await node.put_entries(https_entry("a.test"))
    async with asyncio.timeout(5):
        answer = await node.get_https("a.test")
    assert (answer.body, answer.headers["content-type"]) == (body, "text/plain")
    assert field.partition(":")[0].lower() not in answer.headers
    assert len(origin.requests) == 1


@pytest.mark.parametrize("protocol", ["websocket", "websocket, H2C"])
async def test_no_upgrade_passes_for_it_would_outlive_a_disable(
    node: NginxNode, origin: OriginServer, protocol: str
) -> None:
    await node.put_entries(https_entry("a.test"))
    answer = await node.get_https("a.test", Upgrade=protocol, Connection="Upgrade")
    assert answer.status == 200
    assert "upgrade" not in origin.requests[-1].headers
