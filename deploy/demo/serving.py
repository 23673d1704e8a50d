"""First half of the story: domains, certificates, handshakes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from deploy.demo.handshakes import Watches, believing, is_refused
from deploy.demo.stage import ACCOUNT, IMAGES, LIVE_SECONDS, ONE_IMAGE, WWW, Pair, Stage, until
from deploy.demo.story import Story, check
from deploy.demo.traffic import Visitor
from shared.contracts.domains import Outcome, RedirectMode

Detail = Callable[[str], None]


async def register(story: Story, stage: Stage) -> None:
    with story.step(f"register {WWW} (video) and {IMAGES} (image_small_file)"):
        origin = f"http://127.0.0.1:{stage.origin.port}"
        for domain, kind in ((WWW, "video"), (IMAGES, "image_small_file")):
            ordered = await stage.customer.register(domain, ACCOUNT, kind, origin)
            await stage.applied(ordered.command_id)
        for place in stage.nodes:
            check(
                await is_refused(place, WWW),
                f"{place.node} serves {WWW} before it has a certificate",
            )


async def refuse(story: Story, stage: Stage) -> None:
    """Each bad upload is refused with its own finding, and nothing is served."""
    with story.step(
        "refuse a mismatched pair, an encrypted key, an expired certificate and a wrong domain"
    ) as detail:
        good, other, wrong = await asyncio.gather(
            stage.pair([WWW], "ecdsa"),
            stage.pair([WWW], "ecdsa"),
            stage.pair(["www.other.test"], "ecdsa"),
        )
        now = datetime.now(UTC)
        expired = await stage.pair(
            [WWW], "ecdsa", not_before=now - timedelta(days=60), not_after=now - timedelta(days=1)
        )
        for code, pair in (
            ("key.mismatch", Pair(good.chain, other.key)),
            ("key.encrypted", Pair(good.chain, _encrypted(good.key))),
            ("certificate.expired", expired),
            ("domain.mismatch", wrong),
        ):
            await _is_refused_with(stage, code, pair, detail)
        view = await stage.customer.show(WWW, ACCOUNT)
        check(not view.certificates, f"{WWW} has a certificate after four refusals")


async def submit(story: Story, stage: Stage) -> None:
    # A name that is not registered: it must be gone after the disable, where a registered one may
    # stay.
    extra = f"canary-{secrets.token_hex(4)}.example.test"
    www, images = await asyncio.gather(
        stage.pair([WWW, extra], "rsa"), stage.pair([IMAGES], "ecdsa")
    )
    with story.step(f"submit an RSA pair for {WWW}: live on every node") as detail:
        await _submit_and_see(stage, WWW, WWW, www, detail)
        stage.served.append((www, await stage.sealed_boxes(WWW)))
    with story.step(f"submit an ECDSA pair for {IMAGES}: live on every node") as detail:
        await _submit_and_see(stage, IMAGES, ONE_IMAGE, images, detail)


async def strangers(story: Story, stage: Stage) -> None:
    with story.step("handshakes without SNI and for unknown names fail on every node"):
        for place in stage.nodes:
            check(
                await is_refused(place, "", believing()),
                f"{place.node} answers a handshake without SNI",
            )
            for name in ("unknown.example.test", "img.example.test", "a.b.img.example.test"):
                check(await is_refused(place, name), f"{place.node} answers a handshake for {name}")


async def redirect(story: Story, stage: Stage) -> None:
    with story.step(f"redirect {WWW} to https") as detail:
        ordered = await stage.customer.change_settings(WWW, ACCOUNT, redirect=RedirectMode.TO_HTTPS)
        settled = await stage.applied(ordered.command_id)
        await stage.customer.converged(WWW, settled.revision or 0, limit=LIVE_SECONDS)
        for place in stage.http_nodes:
            visitor = await Visitor.arrive(place, WWW, None)
            answer = await visitor.get("/watch?v=1")
            visitor.leave()
            where = answer.headers.get("location", "")
            check(
                answer.status == 301
                and where.startswith(f"https://{WWW}")
                and where.endswith("/watch?v=1"),
                f"{place.node} answers {answer.status} with location {where!r} on port 80",
            )
        detail(f"301 to {where}")


async def replace(story: Story, stage: Stage) -> None:
    old, _ = stage.served[-1]
    new = await stage.pair([WWW, f"canary-{secrets.token_hex(4)}.example.test"], "rsa")
    with story.step(
        f"replace the certificate of {WWW} under continuous handshakes: none fails"
    ) as detail:
        async with Watches(stage.nodes, WWW, stage.context()) as watches:
            await until(
                _each_has(watches, 30),
                LIVE_SECONDS,
                lambda: f"only {watches.handshakes} handshakes were made",
            )
            await _submit(stage, WWW, new, watches, detail)
            so_far = min(watch.handshakes for watch in watches.each)
            await until(
                _each_has(watches, so_far + 60),
                LIVE_SECONDS,
                lambda: f"only {watches.handshakes} handshakes were made",
            )
        result = stage.result
        result.replace_handshakes, result.replace_failures = (
            watches.handshakes,
            len(watches.failures),
        )
        detail(f"{watches.handshakes} handshakes, {len(watches.failures)} failed")
        check(
            not watches.failures,
            f"handshakes failed during the replacement: {watches.failures[:3]}",
        )
        for watch in watches.each:
            check(
                watch.last_leaf == new.leaf,
                f"{watch.place.node} does not serve the new certificate",
            )
            check(
                old.leaf in watch.first_seen, f"{watch.place.node} never served the old certificate"
            )
        stage.served.append((new, await stage.sealed_boxes(WWW)))


def _each_has(watches: Watches, count: int) -> Callable[[], asyncio.Future[bool]]:
    async def enough() -> bool:
        return all(watch.handshakes >= count for watch in watches.each)

    return lambda: asyncio.ensure_future(enough())


async def _submit_and_see(stage: Stage, domain: str, name: str, pair: Pair, detail: Detail) -> None:
    async with Watches(stage.nodes, name, stage.context(), pause=0.005) as watches:
        await _submit(stage, domain, pair, watches, detail)


async def _submit(stage: Stage, domain: str, pair: Pair, watches: Watches, detail: Detail) -> None:
    """From publish to the verdict's event and to the last node's handshake, by this process's
    clock."""
    began = time.monotonic()
    ordered = await stage.customer.submit(domain, ACCOUNT, pair.chain, pair.key)
    settled = await stage.applied(ordered.command_id)
    accepted_ms = (time.monotonic() - began) * 1000
    live_at = await watches.all_serve(pair.leaf, LIVE_SECONDS)
    waiting = [watch.place.node for watch in watches.each if pair.leaf not in watch.first_seen]
    if live_at is None:
        check(
            False, f"{', '.join(waiting)} did not serve the new certificate in {LIVE_SECONDS:g} s"
        )
        return
    live_ms = (live_at - began) * 1000
    stage.result.submitted(accepted_ms, live_ms)
    live = await stage.customer.converged(domain, settled.revision or 0, limit=LIVE_SECONDS)
    check(live.nodes == len(stage.nodes), f"converged on {live.nodes} of {len(stage.nodes)} nodes")
    detail(
        f"accepted after {accepted_ms:.0f} ms, served by the last of {live.nodes} nodes after "
        f"{live_ms:.0f} ms "
        "(chain and name verified)"
    )


async def _is_refused_with(stage: Stage, code: str, pair: Pair, detail: Detail) -> None:
    ordered = await stage.customer.submit(WWW, ACCOUNT, pair.chain, pair.key)
    settled = await stage.customer.settled(ordered.command_id)
    check(settled.outcome is Outcome.REFUSED, f"a pair with {code} was {settled.outcome.value}")
    view = await stage.customer.submission(ordered.command_id, ACCOUNT)
    found = next((one for one in view.findings if one.code.value == code), None)
    codes = [one.code.value for one in view.findings]
    if found is None:
        check(False, f"a pair with {code} was refused for {codes}")
        return
    detail(f"{code}: {found.message}")


def _encrypted(key_pem: str) -> str:
    key = load_pem_private_key(key_pem.encode(), None)
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
    ).decode()
