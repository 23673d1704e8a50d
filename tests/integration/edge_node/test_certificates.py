"""A handshake gets the certificate of its SNI, or is refused."""

import asyncio
import socket
import ssl

import pytest
import trustme

from clients.edge_node.nginx.entry import EntryKind, KeyType, NginxEntry
from clients.edge_node.nginx.handshake import get_served_leaf
from tests.integration.edge_node.nginx_node import (
    CA,
    NginxNode,
    client_context,
    fingerprint_of,
    https_entry,
    issue_pair,
)


async def served_leaf(node: NginxNode, name: str, key_type: KeyType | None = None) -> str | None:
    return await get_served_leaf("127.0.0.1", node.layout.https_port, name, key_type)


async def test_a_handshake_for_an_unknown_name_fails_with_unrecognized_name(
    node: NginxNode,
) -> None:
    await node.put_entries(https_entry("known.test"))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await node.connect_https("unknown.test")


async def test_a_handshake_without_sni_fails(node: NginxNode) -> None:
    await node.put_entries(https_entry("known.test"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(
            "127.0.0.1", node.layout.https_port, ssl=context, server_hostname=""
        )


async def test_a_name_in_capitals_is_the_same_name(node: NginxNode) -> None:
    entry = https_entry("a.example.test")
    await node.put_entries(entry)
    assert await served_leaf(node, "A.Example.TEST") == fingerprint_of(entry.pairs[0])


async def test_an_exact_entry_goes_before_a_wildcard_which_covers_one_label_only(
    node: NginxNode,
) -> None:
    wildcard, exact = https_entry("*.example.test"), https_entry("a.example.test")
    await node.put_entries(wildcard, exact)
    assert await served_leaf(node, "a.example.test") == fingerprint_of(exact.pairs[0])
    assert await served_leaf(node, "b.example.test") == fingerprint_of(wildcard.pairs[0])
    assert await served_leaf(node, "b.c.example.test") is None
    assert await served_leaf(node, "example.test") is None


@pytest.mark.parametrize("kind", ["http_only", "suspended"])
async def test_an_exact_domain_without_https_is_not_served_by_the_wildcard(
    node: NginxNode, kind: EntryKind
) -> None:
    await node.put_entries(https_entry("*.example.test"), NginxEntry("a.example.test", 2, kind))
    assert await served_leaf(node, "a.example.test") is None
    assert await served_leaf(node, "b.example.test") is not None
    async with await node.connect_https("b.example.test") as visitor:
        assert (await visitor.get("a.example.test")).status == 421


async def test_each_visitor_gets_the_pair_of_the_key_type_it_speaks(node: NginxNode) -> None:
    rsa, ecdsa = issue_pair("a.test", key_type="rsa"), issue_pair("a.test")
    await node.put_entries(https_entry("a.test", rsa, ecdsa))
    assert await served_leaf(node, "a.test", key_type="rsa") == fingerprint_of(rsa)
    assert await served_leaf(node, "a.test", key_type="ecdsa") == fingerprint_of(ecdsa)


async def test_one_pair_alone_is_served_and_the_other_type_refused(node: NginxNode) -> None:
    rsa = issue_pair("a.test", key_type="rsa")
    await node.put_entries(https_entry("a.test", rsa))
    assert await served_leaf(node, "a.test") == fingerprint_of(rsa)
    assert await served_leaf(node, "a.test", key_type="ecdsa") is None


async def test_the_intermediates_are_served_with_the_leaf(node: NginxNode) -> None:
    pair = issue_pair("a.test", ca=CA.create_child_ca(key_type=trustme.KeyType.RSA))
    assert pair[0].count("BEGIN CERTIFICATE") == 2
    await node.put_entries(https_entry("a.test", pair))
    async with await node.connect_https("a.test") as visitor:
        assert (await visitor.get("a.test")).status == 200


async def test_a_replacement_under_continuous_handshakes_fails_none_of_them(
    node: NginxNode,
) -> None:
    entries = [
        https_entry(
            "a.test", issue_pair("a.test", key_type="rsa"), issue_pair("a.test"), revision=n
        )
        for n in range(1, 5)
    ]
    valid = {fingerprint_of(pair) for entry in entries for pair in entry.pairs}
    await node.put_entries(entries[0])
    done = asyncio.Event()
    seen: list[str | None] = []

    async def make_handshakes() -> None:
        while not done.is_set():
            seen.append(await served_leaf(node, "a.test"))

    async with asyncio.TaskGroup() as group:
        visitors = [group.create_task(make_handshakes()) for _ in range(4)]
        turn = 0
        while len(seen) < 1200 and not any(task.done() for task in visitors):
            turn += 1
            await node.put_entries(entries[turn % len(entries)])
        done.set()
    assert turn > 100
    assert set(seen) <= valid
    assert len(set(seen)) > 1


async def test_the_next_handshake_after_a_put_gets_the_new_certificate(node: NginxNode) -> None:
    for revision in range(1, 20):
        entry = https_entry("a.test", revision=revision)
        await node.put_entries(entry)
        assert await served_leaf(node, "a.test") == fingerprint_of(entry.pairs[0])
    assert await node.data_plane.names_and_revisions() == {"a.test": 19}


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)
async def test_a_session_is_not_resumed_so_that_it_cannot_outlive_a_disable(
    node: NginxNode, version: ssl.TLSVersion
) -> None:
    await node.put_entries(https_entry("a.test"))
    context = client_context(version=version)
    session, _ = await asyncio.to_thread(request_with_session, node, context, None)
    _, resumed = await asyncio.to_thread(request_with_session, node, context, session)
    assert not resumed
    await node.put_entries(NginxEntry("a.test", 2, "http_only"))
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(request_with_session, node, context, session)


def request_with_session(
    node: NginxNode, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Send a request; return the new session and whether ``session`` was resumed.

    Only a blocking socket can offer a session."""
    with (
        socket.create_connection(("127.0.0.1", node.layout.https_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="a.test", session=session) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert b" 200 " in tls.recv(4096)
        return tls.session, tls.session_reused


@pytest.mark.parametrize("closed_by", ["disable", "suspend", "remove"])
async def test_a_closed_domain_fails_handshakes_and_refuses_kept_alive_connections(
    node: NginxNode, closed_by: str
) -> None:
    await node.put_entries(https_entry("a.test"))
    async with await node.connect_https("a.test") as kept_alive:
        assert (await kept_alive.get("a.test")).status == 200
        if closed_by == "remove":
            await node.data_plane.remove_many(["a.test"])
        else:
            await node.put_entries(
                NginxEntry("a.test", 2, "http_only" if closed_by == "disable" else "suspended")
            )
        assert await served_leaf(node, "a.test") is None
        assert (await kept_alive.get("a.test")).status == 421
