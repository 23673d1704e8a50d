"""The end of the story: HTTPS is switched off, and nothing of the pair is left."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Final

from deploy.demo.context import (
    ACCOUNT,
    IMAGES,
    LIVE_SECONDS,
    ONE_IMAGE,
    WWW,
    DemoContext,
    elapsed_ms,
)
from deploy.demo.story import check
from deploy.demo.visitors.handshakes import TlsSession, is_refused
from deploy.residue.residue_patterns import ResiduePatterns, patterns_of_pair
from deploy.residue.residue_scan import find_residue
from shared import subjects as s
from shared.contracts.domains import DomainState

_SEARCH_SECONDS: Final = 10.0
_SEARCH_PAUSE_SECONDS: Final = 0.2
_MISDIRECTED_REQUEST: Final = 421


async def disable_https(context: DemoContext) -> None:
    with context.story.step(
        f"disable {WWW}: new, resumed and kept-alive connections are refused"
    ) as add_detail:
        await _check_search_works(context)
        sessions = await _open_sessions(context)
        began = time.monotonic()
        ordered = await context.customer.disable(WWW, ACCOUNT)
        settled = await context.wait_applied(ordered.command_id)
        await context.customer.converged(WWW, settled.revision or 0, limit=LIVE_SECONDS)
        add_detail(f"off on every node after {elapsed_ms(began):.0f} ms")
        for endpoint in context.nodes:
            refused = await is_refused(endpoint, WWW)
            check(refused, f"{endpoint.node} still answers a handshake for {WWW}")
        for session in sessions:
            outcome = await asyncio.to_thread(session.resume)
            version = session.context.maximum_version.name
            check(
                outcome is None,
                f"{session.endpoint.node} let a {version} session in after the disable: {outcome}",
            )
        await _check_kept_alive_refused(context)
        for endpoint in context.nodes:
            refused = await is_refused(endpoint, ONE_IMAGE, context.tls_context())
            check(not refused, f"{endpoint.node} dropped {IMAGES} too")
        view = await context.customer.show(WWW, ACCOUNT)
        check(
            view.state is DomainState.DISABLED and not view.certificates,
            f"{WWW} is {view.state.value}",
        )


async def search_residue(context: DemoContext) -> None:
    with context.story.step(
        "nothing of its pairs is left: databases, streams, buckets, node files"
    ) as add_detail:
        # Outboxes and nodes clean up a moment after the disable.
        deadline = time.monotonic() + _SEARCH_SECONDS
        places = await _find_places(context)
        while places and time.monotonic() < deadline:
            await asyncio.sleep(_SEARCH_PAUSE_SECONDS)
            places = await _find_places(context)
        context.result.leftovers = len(places)
        for place in places[:10]:
            add_detail(f"left: {place}")
        check(
            not places,
            f"{len(places)} places still hold something of a pair, the first: {places[:1]}",
        )


async def _find_places(context: DemoContext) -> list[str]:
    """Return every place that holds a part of a pair that www was served with."""
    patterns: dict[str, ResiduePatterns] = {}
    for number, (pair, boxes) in enumerate(context.served, start=1):
        patterns[f"pair {number}"] = patterns_of_pair(
            pair.chain, pair.key, registered={WWW, IMAGES}, sealed=boxes
        )
    databases = dict(context.run["postgres"])
    # Finance's role sees views of billing's tables, which are searched as billing.
    databases.pop("finance", None)
    return await find_residue(patterns, databases, context.searcher, context.node_folders)


async def _check_search_works(context: DemoContext) -> None:
    """Check that the search finds the pair while it is served: else finding nothing later would
    prove nothing."""
    places = await _find_places(context)
    expected = [s.kv_stream(s.BUCKET_BUNDLES), "config."]
    expected += [folder.name for folder in context.node_folders]
    for start in expected:
        found = any(f": {start}" in place for place in places)
        check(found, f"the search does not find the served pair in {start}")


async def _open_sessions(context: DemoContext) -> list[TlsSession]:
    """Open a TLS 1.2 and a TLS 1.3 session with each node; none may be resumable even while the
    certificate is served."""
    opened: list[TlsSession] = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for endpoint in context.nodes:
            tls = context.tls_context(version)
            session = await asyncio.to_thread(TlsSession.open, endpoint, WWW, tls)
            outcome = await asyncio.to_thread(session.resume)
            check(
                outcome == "new handshake",
                f"{endpoint.node} answered a returning {version.name} session with {outcome}",
            )
            opened.append(session)
    return opened


async def _check_kept_alive_refused(context: DemoContext) -> None:
    if context.kept_alive is None:
        return
    # A closed connection is as good an answer as 421.
    with suppress(ConnectionError):
        answer = await context.kept_alive.get("/after-the-disable")
        check(
            answer.status == _MISDIRECTED_REQUEST,
            f"a kept-alive connection was answered with {answer.status} after the disable",
        )
    context.kept_alive.close()
