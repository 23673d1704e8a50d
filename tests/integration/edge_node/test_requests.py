"""Requests pass the gate, redirects and HSTS, and reach the origin."""

import ssl

import pytest

from clients.edge_node.nginx.entry import EntryKind, EntryOrigin, NginxEntry
from tests.integration.edge_node.nginx_node import CA, NginxNode, https_entry, issue_pair
from tests.support.browser import OriginServer


async def test_a_request_is_proxied_with_the_visitors_host_and_its_address(
    node: NginxNode, origin: OriginServer
) -> None:
    await node.put_entries(https_entry("a.test"))
    answer = await node.get_https("a.test", path="/x%2Fy//z?q=1&r=%20", X_Forwarded_For="192.0.2.7")
    assert (answer.status, answer.body) == (200, b"ok")
    seen = origin.requests[-1]
    assert seen.line == "GET /x%2Fy//z?q=1&r=%20 HTTP/1.1"
    assert seen.headers["host"] == "a.test"
    assert seen.headers["x-forwarded-for"] == "192.0.2.7, 127.0.0.1"
    assert seen.headers["x-forwarded-proto"] == "https"
    assert seen.headers["cdn-loop"] == "edgetls"


async def test_a_body_goes_through_to_the_origin(node: NginxNode, origin: OriginServer) -> None:
    await node.put_entries(https_entry("a.test"))
    body = b"x" * 3_000_000
    async with await node.connect_https("a.test") as visitor:
        head = f"POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = await visitor.send_raw(head.encode() + body)
    assert answer.status == 200
    assert origin.requests[-1].headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("sni", "host", "status"),
    [
        ("a.example.test", "a.example.test", 200),
        ("a.example.test", "A.Example.Test", 200),
        ("a.example.test", "a.example.test:8443", 200),
        ("a.example.test", "other.test", 421),
        ("a.example.test", "b.example.test", 421),
        ("a.example.test", "unknown.invalid", 421),
        ("b.example.test", "c.example.test", 200),
        ("b.example.test", "a.example.test", 421),
        ("b.example.test", "plain.example.test", 421),
        ("b.example.test", "c.d.example.test", 421),
        ("b.example.test", "other.test", 421),
    ],
)
async def test_the_host_must_belong_to_the_entry_of_the_sni(
    node: NginxNode, sni: str, host: str, status: int
) -> None:
    await node.put_entries(
        https_entry("a.example.test"),
        https_entry("*.example.test"),
        https_entry("other.test"),
        NginxEntry("plain.example.test", 1, "http_only"),
    )
    assert (await node.get_https(sni, host)).status == status


async def test_a_request_target_with_another_host_is_judged_by_that_host(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"), https_entry("b.test"))
    assert (await node.get_https("a.test", path="https://b.test/")).status == 421
    assert (await node.get_https("a.test", path="https://a.test/")).status == 200


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_to_https_sends_port_80_over_with_its_status_uri_and_query(
    node: NginxNode, status: int
) -> None:
    await node.put_entries(
        https_entry("*.example.test", redirect_mode="to_https", redirect_status=status)
    )
    answer = await node.get_http("a.example.test", "/p%20q?x=1&y=%2F")
    assert answer.status == status
    assert (
        answer.headers["location"]
        == f"https://a.example.test:{node.layout.https_port}/p%20q?x=1&y=%2F"
    )
    assert (await node.get_https("a.example.test")).status == 200


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_to_http_sends_https_back_with_its_status_uri_and_query(
    node: NginxNode, status: int
) -> None:
    await node.put_entries(https_entry("a.test", redirect_mode="to_http", redirect_status=status))
    answer = await node.get_https("a.test", path="/p?x=1")
    assert answer.status == status
    assert answer.headers["location"] == f"http://a.test:{node.layout.http_port}/p?x=1"
    assert (await node.get_http("a.test")).status == 200


async def test_without_a_redirect_both_schemes_are_served(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_https("a.test")).status == (await node.get_http("a.test")).status == 200


async def test_hsts_is_the_entrys_and_sent_by_https_only_on_every_answer(
    node: NginxNode, origin: OriginServer
) -> None:
    origin.answer = (
        b"HTTP/1.1 404 Gone\r\nStrict-Transport-Security: max-age=7\r\nContent-Length: 0\r\n\r\n"
    )
    wanted = "max-age=31536000; includeSubDomains; preload"
    await node.put_entries(https_entry("a.test", hsts=wanted), https_entry("b.test"))
    answer = await node.get_https("a.test")
    assert (answer.status, answer.headers["strict-transport-security"]) == (404, wanted)
    assert "strict-transport-security" not in (await node.get_http("a.test")).headers
    assert "strict-transport-security" not in (await node.get_https("b.test")).headers


@pytest.mark.parametrize("loop", ["edgetls", "other, EdgeTLS; v=1", "edgetls;a=b, other"])
async def test_a_request_that_passed_this_fleet_before_is_a_loop(
    node: NginxNode, origin: OriginServer, loop: str
) -> None:
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_https("a.test", CDN_Loop=loop)).status == 508
    assert (await node.get_http("a.test", CDN_Loop=loop)).status == 508
    assert origin.requests == []


async def test_another_cdns_loop_header_is_kept_and_added_to(
    node: NginxNode, origin: OriginServer
) -> None:
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_https("a.test", CDN_Loop="other; v=1, edgetls-not")).status == 200
    assert origin.requests[-1].headers["cdn-loop"] == "other; v=1, edgetls-not, edgetls"


async def test_an_answer_of_502_by_the_origin_is_passed_on(
    node: NginxNode, origin: OriginServer
) -> None:
    origin.answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nmine"
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_https("a.test")).body == b"mine"
    assert len(origin.requests) == 1


@pytest.mark.parametrize("kind", ["http_only", "suspended"])
async def test_port_80_serves_a_domain_without_https_and_does_not_redirect_it(
    node: NginxNode, kind: EntryKind
) -> None:
    await node.put_entries(NginxEntry("a.test", 1, kind, redirect_mode="to_https"))
    assert (await node.get_http("a.test")).status == 200


async def test_port_80_refuses_an_unknown_host(node: NginxNode) -> None:
    await node.put_entries(https_entry("a.test"))
    assert (await node.get_http("unknown.test")).status == 421
    async with await node.connect_http() as visitor:
        assert (await visitor.send_raw(b"GET / HTTP/1.0\r\n\r\n")).status == 421


@pytest.mark.parametrize(("name", "status"), [("origin.test", 200), ("elsewhere.test", 502)])
async def test_an_https_origins_certificate_must_carry_its_name(
    node: NginxNode, name: str, status: int
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("origin.test").configure_cert(tls)
    secure = OriginServer()
    await secure.start(tls)
    try:
        origin = EntryOrigin("https", (f"127.0.0.1:{secure.port}",), name)
        await node.put_entries(https_entry("a.test", origin=origin))
        assert (await node.get_https("a.test")).status == status
        assert [request.headers["host"] for request in secure.requests] == ["a.test"] * (
            status == 200
        )
    finally:
        await secure.stop()


async def test_a_pair_of_one_domain_is_not_needed_by_another(node: NginxNode) -> None:
    pair = issue_pair("a.test", "b.test")
    await node.put_entries(https_entry("a.test", pair), https_entry("b.test", pair))
    assert (await node.get_https("a.test", "b.test")).status == 421
    assert (await node.get_https("b.test")).status == 200
