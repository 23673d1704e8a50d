"""The certificate library and the settings, seen at the nodes: one wildcard on twenty domains, back
and forth.

It uses an account of its own, so that its requests are not among those that the story counts.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import Final

from deploy.demo.context import LIVE_SECONDS, DemoContext, elapsed_ms
from deploy.demo.story import CheckFailed, check
from deploy.demo.visitors.handshakes import (
    HANDSHAKE_REFUSED,
    Endpoint,
    NegotiatedTls,
    negotiate_tls,
)
from deploy.demo.visitors.http_requests import VisitorConnection
from deploy.embedded.dev_ca import CertificatePair
from shared.contracts.domains import CommandSettled, Hsts, Outcome

ACCOUNT: Final = "demo-library"
FAMILY: Final = "shop.example.test"
NAME: Final = "wildcard-shop"
DOMAINS: Final = [f"s{number:02}.{FAMILY}" for number in range(1, 21)]
# OLD is rolled back and gets TLS 1.2, NEW keeps the new certificate and gets TLS 1.3, UNCHANGED
# shows that the settings of one domain are not those of its neighbour.
OLD: Final = DOMAINS[0]
NEW: Final = DOMAINS[1]
UNCHANGED: Final = DOMAINS[2]
TLS12: Final = ssl.TLSVersion.TLSv1_2
TLS13: Final = ssl.TLSVersion.TLSv1_3


async def deploy_to_many(context: DemoContext) -> None:
    customer = context.customer
    with context.story.step(
        f"store *.{FAMILY} and put it on {len(DOMAINS)} domains in one command"
    ) as add_detail:
        origin = f"http://127.0.0.1:{context.origin.port}"
        registrations = []
        for domain in DOMAINS:
            registrations.append(customer.register(domain, ACCOUNT, "image_small_file", origin))
        for ordered in await asyncio.gather(*registrations):
            await context.wait_applied(ordered.command_id)
        pair = await context.issue_pair([f"*.{FAMILY}"], "ecdsa")
        stored = await customer.store(NAME, ACCOUNT, pair.chain, pair.key)
        await context.wait_applied(stored.command_id)
        began = time.monotonic()
        command = await customer.deploy(NAME, ACCOUNT, DOMAINS)
        await _check_all_live(context, await customer.results(command.command_id))
        await _check_all_serve(context, DOMAINS, pair)
        add_detail(f"each live on every node after {elapsed_ms(began):.0f} ms, one result each")
        context.stored = pair


async def replace_and_roll_back(context: DemoContext) -> None:
    customer = context.customer
    with context.story.step(
        f"replace it under its name: {len(DOMAINS)} domains follow; {OLD} rolls back"
    ) as add_detail:
        before = context.stored
        if before is None:
            raise CheckFailed("no certificate was stored")
        pair = await context.issue_pair([f"*.{FAMILY}"], "ecdsa")
        began = time.monotonic()
        command = await customer.store(NAME, ACCOUNT, pair.chain, pair.key, overwrite=True)
        results = await customer.results(command.command_id)
        # One result is about the library's entry; the others are about a domain each.
        await _check_all_live(context, [one for one in results if one.domain is not None])
        await _check_all_serve(context, DOMAINS, pair)
        add_detail(f"all follow after {elapsed_ms(began):.0f} ms")
        began = time.monotonic()
        ordered = await customer.rollback(OLD, ACCOUNT)
        await _wait_live(context, await context.wait_applied(ordered.command_id))
        await _check_all_serve(context, [OLD], before)
        await _check_all_serve(context, [NEW], pair)
        add_detail(f"{OLD} serves the certificate before after {elapsed_ms(began):.0f} ms")
        deleted = await customer.delete_certificate(NAME, ACCOUNT)
        settled = await customer.settled(deleted.command_id)
        check(
            settled.codes == ["certificate.in_use"],
            f"a certificate in use was deleted: {settled.codes}",
        )


async def change_policies(context: DemoContext) -> None:
    with context.story.step(
        f"TLS 1.2 only with HTTP/2 and HSTS on {OLD} beside TLS 1.3 only on {NEW}"
    ) as add_detail:
        customer = context.customer
        hsts = Hsts(max_age=31_536_000, include_subdomains=True)
        first = await customer.change_settings(
            OLD, ACCOUNT, tls_min="1.2", tls_max="1.2", http2=True, hsts=hsts
        )
        second = await customer.change_settings(NEW, ACCOUNT, tls_min="1.3", tls_max="1.3")
        for ordered in (first, second):
            await _wait_live(context, await context.wait_applied(ordered.command_id))
        for endpoint in context.nodes:
            await _check_protocols(context, endpoint)
            await _check_hsts(context, endpoint)
        add_detail("by handshakes and requests at every node, changed without a reload")


async def _check_protocols(context: DemoContext, endpoint: Endpoint) -> None:
    for domain, version, alpn, refused_version in (
        (OLD, TLS12, "h2", TLS13),
        (NEW, TLS13, "http/1.1", TLS12),
    ):
        agreed = await _negotiate(context, endpoint, domain, version)
        check(
            agreed is not None and agreed.alpn == alpn,
            f"{endpoint.node} answers a {version.name} handshake for {domain} with {agreed}",
        )
        agreed = await _negotiate(context, endpoint, domain, refused_version)
        check(agreed is None, f"{endpoint.node} speaks {refused_version.name} for {domain}")


async def _check_hsts(context: DemoContext, endpoint: Endpoint) -> None:
    header = await _fetch_hsts(context, endpoint, OLD)
    check(
        header == "max-age=31536000; includeSubDomains",
        f"{endpoint.node} answers with HSTS {header!r}",
    )
    header = await _fetch_hsts(context, endpoint, UNCHANGED)
    check(header == "", f"{endpoint.node} sends HSTS for {UNCHANGED}")


async def _check_all_live(context: DemoContext, results: Sequence[CommandSettled]) -> None:
    """Check that every domain has a result, and wait until every result is on all nodes."""
    check(len(results) == len(DOMAINS), f"{len(results)} results for {len(DOMAINS)} domains")
    for one in results:
        check(
            one.outcome is Outcome.APPLIED,
            f"{one.domain} was {one.outcome.value}: {one.codes}",
        )
    await asyncio.gather(*(_wait_live(context, one) for one in results))


async def _wait_live(context: DemoContext, settled: CommandSettled) -> None:
    domain = settled.domain or ""
    await context.customer.converged(domain, settled.revision or 0, limit=LIVE_SECONDS)


async def _check_all_serve(
    context: DemoContext, domains: Sequence[str], pair: CertificatePair
) -> None:
    """Check by handshakes with every node, which verify chain and name."""
    tls = context.tls_context()
    for endpoint in context.nodes:
        agreed = await asyncio.gather(*(negotiate_tls(endpoint, name, tls) for name in domains))
        for domain, one in zip(domains, agreed, strict=True):
            check(one.leaf == pair.leaf, f"{endpoint.node} serves another certificate for {domain}")


async def _negotiate(
    context: DemoContext, endpoint: Endpoint, domain: str, version: ssl.TLSVersion
) -> NegotiatedTls | None:
    """Return what a handshake with this TLS version agrees on, None when it is refused."""
    tls = context.tls_context(version)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    try:
        return await negotiate_tls(endpoint, domain, tls)
    except HANDSHAKE_REFUSED:
        return None


async def _fetch_hsts(context: DemoContext, endpoint: Endpoint, domain: str) -> str:
    visitor = await VisitorConnection.open(endpoint, domain, context.tls_context())
    try:
        answer = await visitor.get("/hsts")
        return answer.headers.get("strict-transport-security", "")
    finally:
        visitor.close()
