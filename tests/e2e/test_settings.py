"""Every setting is seen at real nodes: changed live, without a reload."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients.platform import Platform as Client
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared.contracts.domains import Hsts
from tests.support.browser import (
    ORIGIN_BODY,
    REFUSALS,
    HttpConnection,
    Negotiated,
    NodeAddress,
    OriginServer,
    negotiate,
    trusting_context,
)
from tests.support.customer import live, registered, settled, uploaded
from tests.support.pki import issue_pair

ACCOUNT = "e2e-settings"
"""Its requests are charged: not to the account whose balance other tests check."""
V10 = ssl.TLSVersion.TLSv1
V11 = ssl.TLSVersion.TLSv1_1
V12 = ssl.TLSVersion.TLSv1_2
V13 = ssl.TLSVersion.TLSv1_3
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    async with OriginServer() as server:
        yield server


async def enable_https(customer: Client, ca: DevCa, domain: str, origin_port: int = 9) -> None:
    """Register a domain and wait until every node serves its certificate."""
    await registered(customer, domain, ACCOUNT, origin_port)
    await uploaded(customer, domain, ACCOUNT, issue_pair(ca, domain))


async def offer_versions(
    trust_roots: Path, address: NodeAddress, domain: str, low: ssl.TLSVersion, high: ssl.TLSVersion
) -> Negotiated | None:
    """Return what a client agrees on that offers versions from ``low`` to ``high``; None where it
    is refused."""
    context = trusting_context(trust_roots)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = low
    context.maximum_version = high
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        return await negotiate(address, domain, context)
    except REFUSALS:
        return None


def nginx_pids(platform: EmbeddedPlatform) -> set[int]:
    """Return the pids of the nginx processes of every node: a reload would make new ones."""
    found: set[int] = set()
    for pid_file in (platform.data / "nodes").rglob("nginx.pid"):
        master = int(pid_file.read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        found |= {master, *map(int, children)}
    return found


async def test_a_range_of_tls_versions_is_a_domains_own_and_changes_without_a_reload(
    platform: EmbeddedPlatform,
    trust_roots: Path,
    customer: Client,
    ca: DevCa,
    nodes: list[NodeAddress],
) -> None:
    only12 = "only12.example.test"
    only13 = "only13.example.test"
    await asyncio.gather(enable_https(customer, ca, only12), enable_https(customer, ca, only13))
    before = nginx_pids(platform)
    assert before
    for domain, version in ((only12, "1.2"), (only13, "1.3")):
        ordered = await customer.change_settings(domain, ACCOUNT, tls_min=version, tls_max=version)  # type: ignore[arg-type]
        await live(customer, ordered)
    for address in nodes:
        agreed = await offer_versions(trust_roots, address, only12, V10, V13)
        assert agreed is not None and agreed.version == "TLSv1.2"
        assert await offer_versions(trust_roots, address, only12, V13, V13) is None
        assert await offer_versions(trust_roots, address, only12, V11, V11) is None
        assert await offer_versions(trust_roots, address, only13, V12, V12) is None
        agreed = await offer_versions(trust_roots, address, only13, V12, V13)
        assert agreed is not None and agreed.version == "TLSv1.3"
    await live(customer, await customer.change_settings(only12, ACCOUNT, tls_min="1.0"))
    for address in nodes:
        agreed = await offer_versions(trust_roots, address, only12, V11, V11)
        assert agreed is not None and agreed.version == "TLSv1.1"
    assert nginx_pids(platform) == before


async def test_http2_is_negotiated_where_it_is_on(
    trust_roots: Path, customer: Client, ca: DevCa, nodes: list[NodeAddress]
) -> None:
    domain = "h2.example.test"
    await enable_https(customer, ca, domain)
    for on, alpn in ((True, "h2"), (False, "http/1.1")):
        await live(customer, await customer.change_settings(domain, ACCOUNT, http2=on))
        for address in nodes:
            agreed = await offer_versions(trust_roots, address, domain, V12, V13)
            assert agreed is not None and agreed.alpn == alpn


async def test_hsts_is_sent_while_it_is_on(
    trust_roots: Path,
    customer: Client,
    ca: DevCa,
    nodes: list[NodeAddress],
    origin: OriginServer,
) -> None:
    domain = "hsts.example.test"
    await enable_https(customer, ca, domain, origin.port)
    on = await customer.change_settings(
        domain, ACCOUNT, hsts=Hsts(max_age=600, include_subdomains=True, preload=True)
    )
    await live(customer, on)
    header = await _hsts_header(trust_roots, nodes[0], domain)
    assert header == "max-age=600; includeSubDomains; preload"
    await live(customer, await customer.change_settings(domain, ACCOUNT, hsts="off"))
    assert await _hsts_header(trust_roots, nodes[0], domain) is None


async def _hsts_header(trust_roots: Path, address: NodeAddress, domain: str) -> str | None:
    context = trusting_context(trust_roots)
    async with await HttpConnection.connect(address.host, address.port, domain, context) as visitor:
        return (await visitor.get(domain)).headers.get("strict-transport-security")


async def test_a_post_survives_a_redirect_with_308(
    trust_roots: Path,
    customer: Client,
    ca: DevCa,
    nodes: list[NodeAddress],
    http_nodes: list[NodeAddress],
    origin: OriginServer,
) -> None:
    domain = "post.example.test"
    await enable_https(customer, ca, domain, origin.port)
    ordered = await customer.change_settings(
        domain, ACCOUNT, redirect="to_https", redirect_status=308
    )
    end = await live(customer, ordered)
    assert end.codes == ["settings.redirect_may_loop"]
    http = http_nodes[0]
    async with await HttpConnection.connect(http.host, http.port) as visitor:
        redirect = await visitor.send_raw(_post_request(domain))
    location = redirect.headers["location"]
    assert redirect.status == 308
    assert location.startswith(f"https://{domain}") and location.endswith("/form")
    assert origin.requests == []
    https = nodes[0]
    context = trusting_context(trust_roots)
    async with await HttpConnection.connect(https.host, https.port, domain, context) as visitor:
        response = await visitor.send_raw(_post_request(domain))
    assert response.status == 200
    assert [(one.method, one.body) for one in origin.requests] == [("POST", b"name=value")]


def _post_request(domain: str) -> bytes:
    head = f"POST /form HTTP/1.1\r\nHost: {domain}\r\nContent-Length: 10\r\n\r\n"
    return head.encode() + b"name=value"


async def test_a_new_origin_is_fetched_from_at_once_with_https_on_or_off(
    customer: Client, http_nodes: list[NodeAddress], origin: OriginServer
) -> None:
    domain = "moved.example.test"
    await registered(customer, domain, ACCOUNT)
    change = await customer.change_settings(
        domain, ACCOUNT, origin=f"http://127.0.0.1:{origin.port}"
    )
    await live(customer, change)
    http = http_nodes[0]
    async with await HttpConnection.connect(http.host, http.port) as visitor:
        assert (await visitor.get(domain)).body == ORIGIN_BODY


async def test_settings_that_exclude_each_other_are_refused(customer: Client, ca: DevCa) -> None:
    domain = "conflict.example.test"
    await enable_https(customer, ca, domain)
    await live(customer, await customer.change_settings(domain, ACCOUNT, hsts=Hsts(max_age=60)))
    for wanted in (
        {"redirect": "to_http"},
        {"tls_max": "1.1"},
        {"http2": True, "tls_min": "1.0", "tls_max": "1.1"},
    ):
        ordered = await customer.change_settings(domain, ACCOUNT, **wanted)  # type: ignore[arg-type]
        assert (await settled(customer, ordered)).codes == ["settings.conflict"]
