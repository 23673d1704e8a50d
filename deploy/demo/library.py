"""The certificate library and the settings, seen at the nodes: one wildcard on twenty domains, back
and forth.

An account of its own: its requests are not among those that the story counts."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import Final

from deploy.demo.handshakes import REFUSED, Agreed, Endpoint, agree
from deploy.demo.stage import LIVE_SECONDS, Pair, Stage
from deploy.demo.story import Story, check
from deploy.demo.traffic import Visitor
from shared.contracts.domains import CommandSettled, Hsts, Outcome

ACCOUNT: Final = "demo-library"
FAMILY: Final = "shop.example.test"
NAME: Final = "wildcard-shop"
DOMAINS: Final = [f"s{number:02}.{FAMILY}" for number in range(1, 21)]
OLD, NEW, FREE = DOMAINS[0], DOMAINS[1], DOMAINS[2]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


async def deploy(story: Story, stage: Stage) -> None:
    with story.step(
        f"store *.{FAMILY} and put it on {len(DOMAINS)} domains in one command"
    ) as detail:
        origin = f"http://127.0.0.1:{stage.origin.port}"
        ordered = await asyncio.gather(
            *(
                stage.customer.register(domain, ACCOUNT, "image_small_file", origin)
                for domain in DOMAINS
            )
        )
        for one in ordered:
            await stage.applied(one.command_id)
        pair = await stage.pair([f"*.{FAMILY}"], "ecdsa")
        await stage.applied(
            (await stage.customer.store(NAME, ACCOUNT, pair.chain, pair.key)).command_id
        )
        began = time.monotonic()
        command = await stage.customer.deploy(NAME, ACCOUNT, DOMAINS)
        await _live(stage, await stage.customer.results(command.command_id), len(DOMAINS))
        await _all_serve(stage, DOMAINS, pair)
        detail(
            f"each live on every node after {(time.monotonic() - began) * 1000:.0f} ms, one "
            "result each"
        )
        stage.stored = pair


async def replace_and_roll_back(story: Story, stage: Stage) -> None:
    with story.step(
        f"replace it under its name: {len(DOMAINS)} domains follow; {OLD} rolls back"
    ) as detail:
        pair, before = await stage.pair([f"*.{FAMILY}"], "ecdsa"), stage.stored
        check(before is not None, "no certificate was stored")
        began = time.monotonic()
        command = await stage.customer.store(NAME, ACCOUNT, pair.chain, pair.key, overwrite=True)
        ended = await stage.customer.results(command.command_id)
        await _live(stage, [one for one in ended if one.domain is not None], len(DOMAINS))
        await _all_serve(stage, DOMAINS, pair)
        detail(f"all follow after {(time.monotonic() - began) * 1000:.0f} ms")
        began = time.monotonic()
        await _change(
            stage, await stage.applied((await stage.customer.rollback(OLD, ACCOUNT)).command_id)
        )
        if before is not None:
            await _all_serve(stage, [OLD], before)
        await _all_serve(stage, [NEW], pair)
        detail(
            f"{OLD} serves the certificate before after {(time.monotonic() - began) * 1000:.0f} ms"
        )
        deleted = await stage.customer.delete_certificate(NAME, ACCOUNT)
        settled = await stage.customer.settled(deleted.command_id)
        check(
            settled.codes == ["certificate.in_use"],
            f"a certificate in use was deleted: {settled.codes}",
        )


async def policies(story: Story, stage: Stage) -> None:
    with story.step(
        f"TLS 1.2 only with HTTP/2 and HSTS on {OLD} beside TLS 1.3 only on {NEW}"
    ) as detail:
        customer = stage.customer
        first = await customer.change_settings(
            OLD,
            ACCOUNT,
            tls_min="1.2",
            tls_max="1.2",
            http2=True,
            hsts=Hsts(max_age=31_536_000, include_subdomains=True),
        )
        second = await customer.change_settings(NEW, ACCOUNT, tls_min="1.3", tls_max="1.3")
        for one in (first, second):
            await _change(stage, await stage.applied(one.command_id))
        for place in stage.nodes:
            told = await _agreed(stage, place, OLD, TLS12)
            check(
                told is not None and (told.version, told.alpn) == ("TLSv1.2", "h2"),
                f"{place.node}: {OLD} {told}",
            )
            check(
                await _agreed(stage, place, OLD, TLS13) is None,
                f"{place.node} speaks TLS 1.3 for {OLD}",
            )
            told = await _agreed(stage, place, NEW, TLS13)
            check(
                told is not None and (told.version, told.alpn) == ("TLSv1.3", "http/1.1"),
                f"{place.node}: {told}",
            )
            check(
                await _agreed(stage, place, NEW, TLS12) is None,
                f"{place.node} speaks TLS 1.2 for {NEW}",
            )
            header = await _header(stage, place, OLD)
            check(
                header == "max-age=31536000; includeSubDomains",
                f"{place.node} answers with HSTS {header!r}",
            )
            check(await _header(stage, place, FREE) == "", f"{place.node} sends HSTS for {FREE}")
        detail("by handshakes and requests at every node, changed without a reload")


async def _live(stage: Stage, ended: Sequence[CommandSettled], count: int) -> None:
    """Every result applied, and converged."""
    check(len(ended) == count, f"{len(ended)} results for {count} domains")
    bad = [
        f"{one.domain}: {one.outcome.value} {one.codes}"
        for one in ended
        if one.outcome is not Outcome.APPLIED
    ]
    check(not bad, f"not applied: {bad}")
    await asyncio.gather(*(_change(stage, one) for one in ended))


async def _change(stage: Stage, settled: CommandSettled) -> None:
    await stage.customer.converged(settled.domain or "", settled.revision or 0, limit=LIVE_SECONDS)


async def _all_serve(stage: Stage, domains: list[str], pair: Pair) -> None:
    """By real handshakes with every node, chain and name verified."""
    leaf, context = pair.leaf, stage.context()
    for place in stage.nodes:
        agreed = await asyncio.gather(*(agree(place, domain, context) for domain in domains))
        wrong = [domain for domain, one in zip(domains, agreed, strict=True) if one.leaf != leaf]
        check(not wrong, f"{place.node} serves another certificate for {wrong[:3]}")


async def _agreed(
    stage: Stage, place: Endpoint, domain: str, version: ssl.TLSVersion
) -> Agreed | None:
    context = stage.context(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        return await agree(place, domain, context)
    except REFUSED:
        return None


async def _header(stage: Stage, place: Endpoint, domain: str) -> str:
    visitor = await Visitor.arrive(place, domain, stage.context())
    try:
        return (await visitor.get("/hsts")).headers.get("strict-transport-security", "")
    finally:
        visitor.leave()
