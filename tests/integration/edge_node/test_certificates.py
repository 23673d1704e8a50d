"""Which certificate a handshake gets, and when it gets none."""

import asyncio
import socket
import ssl

import pytest
import trustme

from clients.edge_node.nginx.entry import Entry
from clients.edge_node.nginx.handshake import handshake
from tests.integration.edge_node.harness import (
    CA,
    Node,
    client_context,
    fingerprint,
    https_entry,
    issue,
)


async def served(node: Node, name: str, **options: str) -> str | None:
    return await handshake("127.0.0.1", node.layout.https_port, name, **options)  # type: ignore[arg-type]


async def test_a_handshake_for_an_unknown_name_fails_with_unrecognized_name(node: Node) -> None:
    await node.put(https_entry("known.test"))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await node.visit("unknown.test")


async def test_a_handshake_without_sni_fails(node: Node) -> None:
    await node.put(https_entry("known.test"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(
            "127.0.0.1", node.layout.https_port, ssl=context, server_hostname=""
        )


async def test_a_name_in_capitals_is_the_same_name(node: Node) -> None:
    entry = https_entry("a.example.test")
    await node.put(entry)
    assert await served(node, "A.Example.TEST") == fingerprint(entry.pairs[0])


async def test_an_exact_entry_goes_before_a_wildcard_which_covers_one_label_only(
    node: Node,
) -> None:
    wildcard, exact = https_entry("*.example.test"), https_entry("a.example.test")
    await node.put(wildcard, exact)
    assert await served(node, "a.example.test") == fingerprint(exact.pairs[0])
    assert await served(node, "b.example.test") == fingerprint(wildcard.pairs[0])
    assert await served(node, "b.c.example.test") is None
    assert await served(node, "example.test") is None


@pytest.mark.parametrize("kind", ["http_only", "suspended"])
async def test_an_exact_domain_without_https_is_not_served_by_the_wildcard(
    node: Node, kind: str
) -> None:
    await node.put(https_entry("*.example.test"), Entry("a.example.test", 2, kind))  # type: ignore[arg-type]
    assert await served(node, "a.example.test") is None
    assert await served(node, "b.example.test") is not None
    async with await node.visit("b.example.test") as visitor:
        assert (await visitor.get("a.example.test")).status == 421


async def test_each_visitor_gets_the_pair_of_the_key_type_it_speaks(node: Node) -> None:
    rsa, ecdsa = issue("a.test", key_type="rsa"), issue("a.test")
    await node.put(https_entry("a.test", rsa, ecdsa))
    assert await served(node, "a.test", key_type="rsa") == fingerprint(rsa)
    assert await served(node, "a.test", key_type="ecdsa") == fingerprint(ecdsa)


async def test_one_pair_alone_is_served_and_the_other_type_refused(node: Node) -> None:
    rsa = issue("a.test", key_type="rsa")
    await node.put(https_entry("a.test", rsa))
    assert await served(node, "a.test") == fingerprint(rsa)
    assert await served(node, "a.test", key_type="ecdsa") is None


async def test_the_intermediates_are_served_with_the_leaf(node: Node) -> None:
    pair = issue("a.test", ca=CA.create_child_ca(key_type=trustme.KeyType.RSA))
    assert pair[0].count("BEGIN CERTIFICATE") == 2
    await node.put(https_entry("a.test", pair))
    async with await node.visit("a.test") as visitor:
        assert (await visitor.get("a.test")).status == 200


async def test_a_replacement_under_continuous_handshakes_fails_none_of_them(node: Node) -> None:
    entries = [
        https_entry("a.test", issue("a.test", key_type="rsa"), issue("a.test"), revision=n)
        for n in range(1, 5)
    ]
    valid = {fingerprint(pair) for entry in entries for pair in entry.pairs}
    await node.put(entries[0])
    done, seen = asyncio.Event(), []

    async def visit_on_and_on() -> None:
        while not done.is_set():
            seen.append(await served(node, "a.test"))

    async with asyncio.TaskGroup() as group:
        visitors = [group.create_task(visit_on_and_on()) for _ in range(4)]
        turn = 0
        while len(seen) < 1200 and not any(task.done() for task in visitors):
            turn += 1
            await node.put(entries[turn % len(entries)])
        done.set()
    assert turn > 100
    assert set(seen) <= valid
    assert len(set(seen)) > 1


async def test_the_next_handshake_after_a_put_gets_the_new_certificate(node: Node) -> None:
    for revision in range(1, 20):
        entry = https_entry("a.test", revision=revision)
        await node.put(entry)
        assert await served(node, "a.test") == fingerprint(entry.pairs[0])
    assert await node.plane.names_and_revisions() == {"a.test": 19}


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)
async def test_a_session_is_not_resumed_so_that_it_cannot_outlive_a_disable(
    node: Node, version: ssl.TLSVersion
) -> None:
    await node.put(https_entry("a.test"))
    context = client_context(version=version)
    session, _ = await asyncio.to_thread(visit_with_session, node, context, None)
    _, resumed = await asyncio.to_thread(visit_with_session, node, context, session)
    assert not resumed
    await node.put(Entry("a.test", 2, "http_only"))
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(visit_with_session, node, context, session)


def visit_with_session(
    node: Node, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """A request by a blocking socket, which alone can offer a session; gives the new session and if
    it was resumed."""
    with (
        socket.create_connection(("127.0.0.1", node.layout.https_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="a.test", session=session) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert b" 200 " in tls.recv(4096)
        return tls.session, tls.session_reused


@pytest.mark.parametrize("closed_by", ["disable", "suspend", "remove"])
async def test_a_closed_domain_fails_handshakes_and_refuses_kept_alive_connections(
    node: Node, closed_by: str
) -> None:
    await node.put(https_entry("a.test"))
    async with await node.visit("a.test") as kept_alive:
        assert (await kept_alive.get("a.test")).status == 200
        if closed_by == "remove":
            await node.plane.remove_many(["a.test"])
        else:
            await node.put(
                Entry("a.test", 2, "http_only" if closed_by == "disable" else "suspended")
            )
        assert await served(node, "a.test") is None
        assert (await kept_alive.get("a.test")).status == 421
