"""Requests that two servers could read in two ways reach no origin."""

import pytest

from tests.integration.edge_node.nginx_node import NginxNode, https_entry
from tests.support.browser import OriginServer

CHUNKED = "Transfer-Encoding: chunked"
REFUSED = {
    "length and chunks": f"Content-Length: 5\r\n{CHUNKED}",
    "a space before the colon": "Transfer-Encoding : chunked",
    "an unknown coding": "Transfer-Encoding: xchunked",
    "two codings": "Transfer-Encoding: chunked, identity",
    "a coding twice": f"{CHUNKED}\r\n{CHUNKED}",
    "a control character before the coding": "Transfer-Encoding:\x0bchunked",
    "a folded line": f"X: y\r\n {CHUNKED}",
    "a bare carriage return": f"X: y\r{CHUNKED}",
    "a no-break space in the name": "Transfer-Encoding\xa0: chunked",
    "a name in brackets": "(Transfer-Encoding): chunked",
    "an empty name": ": chunked",
    "two lengths": "Content-Length: 5\r\nContent-Length: 6",
    "a length with a sign": "Content-Length: +5",
    "a list of lengths": "Content-Length: 5, 5",
    "two hosts": "Host: b.test",
    "a host with a space before the colon": "Host : b.test",
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
async def test_an_ambiguous_request_reaches_no_origin(
    node: NginxNode, origin: OriginServer, fields: str
) -> None:
    await node.put_entries(https_entry("a.test"), https_entry("b.test"))
    raw = f"POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n".encode("latin-1")
    for visitor in (await node.connect_https("a.test"), await node.connect_http()):
        async with visitor:
            assert (await visitor.send_raw(raw)).status in (400, 501)
    assert origin.requests == []


async def test_a_visitor_takes_no_header_away_and_gives_the_node_no_orders(
    node: NginxNode, origin: OriginServer
) -> None:
    await node.put_entries(https_entry("a.test"))
    fields = (
        "Connection: X-Forwarded-Proto, CDN-Loop\r\n"
        "X-Edgetls-Hop-Origin: http://127.0.0.1:1\r\nX-Edgetls-Hop-Name: x\r\n"
        "X-Accel-Redirect: /elsewhere"
    )
    raw = f"GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n".encode()
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.send_raw(raw)).status == 200
    seen = origin.requests[-1].headers
    assert (seen["x-forwarded-proto"], seen["cdn-loop"]) == ("https", "edgetls")
    assert not {name for name in seen if name.startswith("x-edgetls")}
