"""First part of the story: domains, certificates, handshakes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from deploy.demo.context import (
    ACCOUNT,
    IMAGES,
    LIVE_SECONDS,
    ONE_IMAGE,
    WWW,
    DemoContext,
    elapsed_ms,
    wait_for,
)
from deploy.demo.story import CheckFailed, check
from deploy.demo.visitors.handshakes import FleetHandshakes, is_refused
from deploy.demo.visitors.http_requests import VisitorConnection
from deploy.embedded.dev_ca import CertificatePair
from shared.contracts.domains import Outcome, RedirectMode

AddDetail = Callable[[str], None]
_HANDSHAKES_BEFORE: Final = 30
_HANDSHAKES_AFTER: Final = 60
"""Handshakes with each node before and after a replacement, so that it happens among them."""


async def register_domains(context: DemoContext) -> None:
    with context.story.step(f"register {WWW} (video) and {IMAGES} (image_small_file)"):
        origin = f"http://127.0.0.1:{context.origin.port}"
        for domain, service_type in ((WWW, "video"), (IMAGES, "image_small_file")):
            ordered = await context.customer.register(domain, ACCOUNT, service_type, origin)
            await context.wait_applied(ordered.command_id)
        for endpoint in context.nodes:
            refused = await is_refused(endpoint, WWW)
            check(refused, f"{endpoint.node} serves {WWW} before it has a certificate")


async def refuse_bad_uploads(context: DemoContext) -> None:
    """Check that each bad upload is refused with its own finding, and that nothing is served."""
    with context.story.step(
        "refuse a mismatched pair, an encrypted key, an expired certificate and a wrong domain"
    ) as add_detail:
        good, other, wrong = await asyncio.gather(
            context.issue_pair([WWW], "ecdsa"),
            context.issue_pair([WWW], "ecdsa"),
            context.issue_pair(["www.other.test"], "ecdsa"),
        )
        now = datetime.now(UTC)
        expired = await context.issue_pair(
            [WWW], "ecdsa", now - timedelta(days=60), now - timedelta(days=1)
        )
        bad_uploads = {
            "key.mismatch": CertificatePair(good.chain, other.key),
            "key.encrypted": CertificatePair(good.chain, _encrypt_key(good.key)),
            "certificate.expired": expired,
            "domain.mismatch": wrong,
        }
        for code, pair in bad_uploads.items():
            await _check_refused(context, code, pair, add_detail)
        view = await context.customer.show(WWW, ACCOUNT)
        check(not view.certificates, f"{WWW} has a certificate after four refusals")


async def submit_pairs(context: DemoContext) -> None:
    # The second name is not registered: it must be gone after the disable, where a registered name
    # may stay.
    extra = f"canary-{secrets.token_hex(4)}.example.test"
    www, images = await asyncio.gather(
        context.issue_pair([WWW, extra], "rsa"), context.issue_pair([IMAGES], "ecdsa")
    )
    with context.story.step(f"submit an RSA pair for {WWW}: live on every node") as add_detail:
        await _submit_under_handshakes(context, WWW, WWW, www, add_detail)
        context.served.append((www, await context.sealed_boxes(WWW)))
    with context.story.step(f"submit an ECDSA pair for {IMAGES}: live on every node") as add_detail:
        await _submit_under_handshakes(context, IMAGES, ONE_IMAGE, images, add_detail)


async def refuse_unknown_names(context: DemoContext) -> None:
    with context.story.step("handshakes without SNI and for unknown names fail on every node"):
        for endpoint in context.nodes:
            refused = await is_refused(endpoint, "")
            check(refused, f"{endpoint.node} answers a handshake without SNI")
            # A wildcard covers one label: neither its own parent nor two labels.
            for name in ("unknown.example.test", "img.example.test", "a.b.img.example.test"):
                refused = await is_refused(endpoint, name)
                check(refused, f"{endpoint.node} answers a handshake for {name}")


async def redirect_to_https(context: DemoContext) -> None:
    with context.story.step(f"redirect {WWW} to https") as add_detail:
        ordered = await context.customer.change_settings(
            WWW, ACCOUNT, redirect=RedirectMode.TO_HTTPS
        )
        settled = await context.wait_applied(ordered.command_id)
        await context.customer.converged(WWW, settled.revision or 0, limit=LIVE_SECONDS)
        target = f"https://{WWW}"
        for endpoint in context.http_nodes:
            visitor = await VisitorConnection.open(endpoint, WWW, None)
            answer = await visitor.get("/watch?v=1")
            visitor.close()
            location = answer.headers.get("location", "")
            path_kept = location.startswith(target) and location.endswith("/watch?v=1")
            check(
                answer.status == 301 and path_kept,
                f"{endpoint.node} answers {answer.status} with location {location!r} on port 80",
            )
        add_detail(f"301 to {location}")


async def replace_certificate(context: DemoContext) -> None:
    old, _ = context.served[-1]
    extra = f"canary-{secrets.token_hex(4)}.example.test"
    new = await context.issue_pair([WWW, extra], "rsa")
    with context.story.step(
        f"replace the certificate of {WWW} under continuous handshakes: none fails"
    ) as add_detail:
        async with FleetHandshakes(context.nodes, WWW, context.tls_context()) as handshakes:
            await _wait_for_handshakes(handshakes, _HANDSHAKES_BEFORE)
            await _submit_and_measure(context, WWW, new, handshakes, add_detail)
            so_far = min(loop.handshakes for loop in handshakes.loops)
            await _wait_for_handshakes(handshakes, so_far + _HANDSHAKES_AFTER)
        failures = handshakes.failures
        context.result.replace_handshakes = handshakes.handshakes
        context.result.replace_failures = len(failures)
        add_detail(f"{handshakes.handshakes} handshakes, {len(failures)} failed")
        check(not failures, f"handshakes failed during the replacement: {failures[:3]}")
        for loop in handshakes.loops:
            node = loop.endpoint.node
            check(loop.last_leaf == new.leaf, f"{node} does not serve the new certificate")
            check(old.leaf in loop.first_seen, f"{node} never served the old certificate")
        context.served.append((new, await context.sealed_boxes(WWW)))


async def _wait_for_handshakes(handshakes: FleetHandshakes, count: int) -> None:
    """Wait until there were ``count`` handshakes with each node."""

    async def enough() -> bool:
        return all(loop.handshakes >= count for loop in handshakes.loops)

    await wait_for(
        enough, LIVE_SECONDS, lambda: f"only {handshakes.handshakes} handshakes were made"
    )


async def _submit_under_handshakes(
    context: DemoContext, domain: str, name: str, pair: CertificatePair, add_detail: AddDetail
) -> None:
    tls = context.tls_context()
    async with FleetHandshakes(context.nodes, name, tls, pause=0.005) as handshakes:
        await _submit_and_measure(context, domain, pair, handshakes, add_detail)


async def _submit_and_measure(
    context: DemoContext,
    domain: str,
    pair: CertificatePair,
    handshakes: FleetHandshakes,
    add_detail: AddDetail,
) -> None:
    """Measure from publishing to the verdict's event and to the last node's handshake, by the clock
    of this process."""
    began = time.monotonic()
    ordered = await context.customer.submit(domain, ACCOUNT, pair.chain, pair.key)
    settled = await context.wait_applied(ordered.command_id)
    accepted_ms = elapsed_ms(began)
    live_at = await handshakes.wait_until_all_serve(pair.leaf, LIVE_SECONDS)
    if live_at is None:
        waiting = ", ".join(handshakes.nodes_without(pair.leaf))
        raise CheckFailed(f"{waiting} did not serve the new certificate in {LIVE_SECONDS:g} s")
    live_ms = (live_at - began) * 1000
    context.result.add_submission(accepted_ms, live_ms)
    live = await context.customer.converged(domain, settled.revision or 0, limit=LIVE_SECONDS)
    count = len(context.nodes)
    check(live.nodes == count, f"converged on {live.nodes} of {count} nodes")
    add_detail(
        f"accepted after {accepted_ms:.0f} ms, served by the last of {live.nodes} nodes after "
        f"{live_ms:.0f} ms (chain and name verified)"
    )


async def _check_refused(
    context: DemoContext, code: str, pair: CertificatePair, add_detail: AddDetail
) -> None:
    ordered = await context.customer.submit(WWW, ACCOUNT, pair.chain, pair.key)
    settled = await context.customer.settled(ordered.command_id)
    check(settled.outcome is Outcome.REFUSED, f"a pair with {code} was {settled.outcome.value}")
    view = await context.customer.submission(ordered.command_id, ACCOUNT)
    for finding in view.findings:
        if finding.code.value == code:
            add_detail(f"{code}: {finding.message}")
            return
    codes = [finding.code.value for finding in view.findings]
    raise CheckFailed(f"a pair with {code} was refused for {codes}")


def _encrypt_key(key_pem: str) -> str:
    key = load_pem_private_key(key_pem.encode(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
    )
    return encrypted.decode()
