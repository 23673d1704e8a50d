"""The end of the story: HTTPS off, and nothing of the pair left."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress

from deploy.demo.handshakes import Session, is_refused
from deploy.demo.stage import ACCOUNT, IMAGES, LIVE_SECONDS, ONE_IMAGE, WWW, Stage
from deploy.demo.story import Story, check
from deploy.residue.residue_patterns import needles_of
from deploy.residue.residue_scan import leftovers
from shared import subjects as s
from shared.contracts.domains import DomainState

_LEFT_SECONDS = 10.0


async def disable(story: Story, stage: Stage) -> None:
    with story.step(
        f"disable {WWW}: new, resumed and kept-alive connections are refused"
    ) as detail:
        await _can_be_found(stage)
        sessions = await _sessions(stage)
        began = time.monotonic()
        ordered = await stage.customer.disable(WWW, ACCOUNT)
        settled = await stage.applied(ordered.command_id)
        await stage.customer.converged(WWW, settled.revision or 0, limit=LIVE_SECONDS)
        detail(f"off on every node after {(time.monotonic() - began) * 1000:.0f} ms")
        for place in stage.nodes:
            check(await is_refused(place, WWW), f"{place.node} still answers a handshake for {WWW}")
        for session in sessions:
            went = await asyncio.to_thread(session.resume)
            version = session.context.maximum_version.name
            check(
                went is None,
                f"{session.place.node} let a {version} session in after the disable: {went}",
            )
        await _refuses_kept_alive(stage)
        for place in stage.nodes:
            check(
                not await is_refused(place, ONE_IMAGE, stage.context()),
                f"{place.node} dropped {IMAGES} too",
            )
        view = await stage.customer.show(WWW, ACCOUNT)
        check(
            view.state is DomainState.DISABLED and not view.certificates,
            f"{WWW} is {view.state.value}",
        )


async def nothing_left(story: Story, stage: Stage) -> None:
    with story.step(
        "nothing of its pairs is left: databases, streams, buckets, node files"
    ) as detail:
        deadline = time.monotonic() + _LEFT_SECONDS
        while (places := await _search(stage)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        stage.result.leftovers = len(places)
        for place in places[:10]:
            detail(f"left: {place}")
        check(
            not places,
            f"{len(places)} places still hold something of a pair, the first: {places[:1]}",
        )


async def _search(stage: Stage) -> list[str]:
    """Every place that holds something of a pair that www was served with."""
    pairs = {
        f"pair {number}": needles_of(pair.chain, pair.key, registered={WWW, IMAGES}, sealed=boxes)
        for number, (pair, boxes) in enumerate(stage.served, start=1)
    }
    # Finance's role sees views of billing's tables, which are searched as billing.
    databases = {name: dsn for name, dsn in stage.run["postgres"].items() if name != "finance"}
    return await leftovers(pairs, databases, stage.searcher, stage.node_folders)


async def _can_be_found(stage: Stage) -> None:
    """A search that finds nothing proves nothing, unless it found the pair while it was served."""
    places = await _search(stage)
    where = [
        s.kv_stream(s.BUCKET_BUNDLES),
        "config.",
        *(folder.name for folder in stage.node_folders),
    ]
    for place in where:
        check(
            any(f": {place}" in one for one in places),
            f"the search does not find the served pair in {place}",
        )


async def _sessions(stage: Stage) -> list[Session]:
    """A session in TLS 1.2 and one in 1.3 with each node; none may be resumable even while it is
    served."""
    opened = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for place in stage.nodes:
            session = await asyncio.to_thread(Session.open, place, WWW, stage.context(version))
            went = await asyncio.to_thread(session.resume)
            check(
                went == "new handshake",
                f"{place.node} answered a returning {version.name} session with {went}",
            )
            opened.append(session)
    return opened


async def _refuses_kept_alive(stage: Stage) -> None:
    if stage.kept_alive is None:
        return
    with suppress(ConnectionError):
        answer = await stage.kept_alive.get("/after-the-disable")
        check(
            answer.status == 421,
            f"a kept-alive connection was answered with {answer.status} after the disable",
        )
    stage.kept_alive.leave()
