"""TLS versions and HTTP/2 by domain."""

import ssl

import pytest

from clients.edge_node.nginx.entry import TLS_VERSIONS, KeyType, NginxEntry, list_policies
from tests.integration.edge_node.http2_visitor import Http2Visitor
from tests.integration.edge_node.nginx_node import NginxNode, https_entry, issue_pair

VERSIONS = {"1.0": "TLSv1", "1.1": "TLSv1_1", "1.2": "TLSv1_2", "1.3": "TLSv1_3"}
TLS_NAMES = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
RANGES = [(low, high) for low in TLS_VERSIONS for high in TLS_VERSIONS if low <= high]


async def spoken_version(node: NginxNode, name: str, **options: object) -> str | None:
    """Return the TLS version of a handshake, None if it was refused."""
    try:
        async with await node.connect_https(name, **options) as visitor:
            return visitor.tls.version()
    except ssl.SSLError:
        return None


@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_a_domain_speaks_the_versions_of_its_range_and_no_other(
    node: NginxNode, key_type: KeyType
) -> None:
    pair = issue_pair("*.test", key_type=key_type)
    names = {(low, high): f"{low}-{high}.test".replace(".", "", 2) for low, high in RANGES}
    await node.put_entries(
        *(https_entry(name, pair, tls_min=low, tls_max=high) for (low, high), name in names.items())
    )
    for (low, high), name in names.items():
        for version in TLS_VERSIONS:
            found = await spoken_version(node, name, version=ssl.TLSVersion[VERSIONS[version]])
            # A client that offers up to `version` gets the highest that both speak.
            assert found == (TLS_NAMES[min(version, high)] if version >= low else None), (
                low,
                high,
                version,
            )


async def test_http2_is_spoken_where_it_is_on_and_not_elsewhere(node: NginxNode) -> None:
    await node.put_entries(https_entry("two.test", http2=True), https_entry("one.test"))
    async with await node.connect_https("two.test", alpn=("h2", "http/1.1")) as visitor:
        assert visitor.tls.selected_alpn_protocol() == "h2"
        assert await Http2Visitor(visitor, "two.test").get_status() == 200
    async with await node.connect_https("one.test", alpn=("h2", "http/1.1")) as visitor:
        assert visitor.tls.selected_alpn_protocol() == "http/1.1"


async def test_an_http2_connection_passes_the_same_gate(node: NginxNode) -> None:
    await node.put_entries(
        https_entry("two.test", http2=True), https_entry("other.test", http2=True)
    )
    async with await node.connect_https("two.test", alpn=("h2",)) as visitor:
        assert await Http2Visitor(visitor, "other.test").get_status() == 421


async def test_a_change_of_policy_takes_effect_with_the_next_handshake(node: NginxNode) -> None:
    for revision, version in enumerate(("1.2", "1.3", "1.2"), start=1):
        await node.put_entries(
            https_entry("a.test", tls_min=version, tls_max=version, revision=revision)
        )
        assert await spoken_version(node, "a.test") == TLS_NAMES[version]


async def test_an_exact_entry_has_its_own_policy_beside_the_wildcards(node: NginxNode) -> None:
    await node.put_entries(
        https_entry("*.example.test", tls_max="1.2"), https_entry("a.example.test")
    )
    assert await spoken_version(node, "a.example.test") == "TLSv1.3"
    assert await spoken_version(node, "b.example.test") == "TLSv1.2"


def test_there_are_ten_ranges_and_http2_only_from_tls_1_2_on() -> None:
    names = [policy.name for policy in list_policies()]
    assert len(set(names)) == len(names) == 17
    assert NginxEntry("a.test", 1, "http_only").policy == "reject"
    assert https_entry("a.test", tls_min="1.0", tls_max="1.1", http2=True).policy == "10-11"
    assert https_entry("a.test", http2=True).policy == "12-13-h2"
