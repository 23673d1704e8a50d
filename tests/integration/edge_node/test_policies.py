"""TLS versions and HTTP/2 by domain."""

import ssl

import pytest

from clients.edge_node.nginx.entry import TLS_VERSIONS, Entry, policies
from tests.integration.edge_node.harness import Node, Visitor, https_entry, issue

VERSIONS = {"1.0": "TLSv1", "1.1": "TLSv1_1", "1.2": "TLSv1_2", "1.3": "TLSv1_3"}
SPOKEN = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
RANGES = [(low, high) for low in TLS_VERSIONS for high in TLS_VERSIONS if low <= high]


async def spoken(node: Node, name: str, **options: object) -> str | None:
    """The TLS version of a handshake, or None if it was refused."""
    try:
        async with await node.visit(name, **options) as visitor:
            return visitor.tls.version()
    except ssl.SSLError:
        return None


@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_a_domain_speaks_the_versions_of_its_range_and_no_other(
    node: Node, key_type: str
) -> None:
    pair = issue("*.test", key_type=key_type)  # type: ignore[arg-type]
    names = {(low, high): f"{low}-{high}.test".replace(".", "", 2) for low, high in RANGES}
    await node.put(
        *(https_entry(name, pair, tls_min=low, tls_max=high) for (low, high), name in names.items())
    )
    for (low, high), name in names.items():
        for version in TLS_VERSIONS:
            found = await spoken(node, name, version=ssl.TLSVersion[VERSIONS[version]])
            # A client that offers up to `version` gets the highest that both speak.
            assert found == (SPOKEN[min(version, high)] if version >= low else None), (
                low,
                high,
                version,
            )


async def test_http2_is_spoken_where_it_is_on_and_not_elsewhere(node: Node) -> None:
    await node.put(https_entry("two.test", http2=True), https_entry("one.test"))
    async with await node.visit("two.test", alpn=("h2", "http/1.1")) as visitor:
        assert visitor.tls.selected_alpn_protocol() == "h2"
        assert await h2_status(visitor, "two.test") == 200
    async with await node.visit("one.test", alpn=("h2", "http/1.1")) as visitor:
        assert visitor.tls.selected_alpn_protocol() == "http/1.1"


async def test_an_http2_connection_passes_the_same_gate(node: Node) -> None:
    await node.put(https_entry("two.test", http2=True), https_entry("other.test", http2=True))
    async with await node.visit("two.test", alpn=("h2",)) as visitor:
        assert await h2_status(visitor, "other.test") == 421


async def test_a_change_of_policy_takes_effect_with_the_next_handshake(node: Node) -> None:
    for revision, version in enumerate(("1.2", "1.3", "1.2"), start=1):
        await node.put(https_entry("a.test", tls_min=version, tls_max=version, revision=revision))
        assert await spoken(node, "a.test") == SPOKEN[version]


async def test_an_exact_entry_has_its_own_policy_beside_the_wildcards(node: Node) -> None:
    await node.put(https_entry("*.example.test", tls_max="1.2"), https_entry("a.example.test"))
    assert await spoken(node, "a.example.test") == "TLSv1.3"
    assert await spoken(node, "b.example.test") == "TLSv1.2"


def test_there_are_ten_ranges_and_http2_only_from_tls_1_2_on() -> None:
    names = [name for name, _, _ in policies()]
    assert len(set(names)) == len(names) == 17
    assert Entry("a.test", 1, "http_only").policy == "reject"
    assert https_entry("a.test", tls_min="1.0", tls_max="1.1", http2=True).policy == "10-11"
    assert https_entry("a.test", http2=True).policy == "12-13-h2"


async def h2_status(visitor: Visitor, authority: str) -> int:
    """One GET by HTTP/2 in raw frames (RFC 9113, RFC 7541): :method GET, :scheme https, :path /,
    :authority."""
    block = b"\x82\x87\x84\x01" + bytes([len(authority)]) + authority.encode()
    frames = b"\0\0\0\4\0\0\0\0\0" + len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames
    received = await visitor.exchange(sent, lambda data: _headers(data) is not None)
    headers = _headers(received)
    assert headers is not None
    return (
        200
        if headers[0] == 0x88 or headers[1:2] == b"\x88"
        else int(headers[headers.index(b"\x03") + 1 :][:3])
    )


def _headers(data: bytes) -> bytes | None:
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        if data[3] == 1 and len(data) >= 9 + length:
            return data[9 : 9 + length]
        data = data[9 + length :]
    return None
