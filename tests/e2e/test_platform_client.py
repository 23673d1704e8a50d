"""The Python client: nothing is missed, nothing hangs, the key does not leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clients.platform import (
    ConvergenceProgress,
    Event,
    SettingsError,
    Unreachable,
    connect,
    findings_of,
)
from clients.platform import Platform as Client
from clients.platform.outcome_events import PendingOutcome
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.contracts.domains import Outcome
from tests.e2e.conftest import ACCOUNT, NODES

ORIGIN = "http://127.0.0.1:9"


async def _applied(customer: Client, domain: str) -> None:
    ordered = await customer.register(domain, ACCOUNT, "video", ORIGIN)
    assert (await customer.settled(ordered.command_id)).outcome is Outcome.APPLIED


async def test_who_missed_the_event_is_told_by_config(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa
) -> None:
    await _applied(customer, "missed.example.test")
    chain, key = ca.issue(["missed.example.test"], "ecdsa")
    ordered = await customer.submit("missed.example.test", ACCOUNT, chain, key)
    heard = await customer.settled(ordered.command_id)
    run = platform.run
    async with await connect(run["nats_url"], Path(run["credentials"]["platform"])) as late:
        asked = await late.settled(ordered.command_id)
    assert (asked.outcome, asked.revision, asked.domain) == (
        heard.outcome,
        heard.revision,
        heard.domain,
    )


async def test_every_kind_of_command_can_be_asked_for_when_its_event_is_lost(
    customer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_event(*_: object) -> None:
        """A core event that never came."""

    monkeypatch.setattr(PendingOutcome, "take_event", lose_event)
    ordered = await customer.register("deaf.example.test", ACCOUNT, "video", ORIGIN)
    settled = await customer.settled(ordered.command_id)
    assert (settled.outcome, settled.domain) == (Outcome.APPLIED, "deaf.example.test")


async def test_a_command_that_nobody_knows_is_not_waited_for_in_vain(customer: Client) -> None:
    with pytest.raises(Unreachable, match=r"was not settled within 0\.5 s"):
        await customer.settled("no-such-command", limit=0.5)


async def test_the_same_command_twice_is_carried_out_once(customer: Client) -> None:
    first = await customer.register(
        "twice.example.test", ACCOUNT, "video", ORIGIN, command_id="twice-1"
    )
    settled = await customer.settled(first.command_id)
    second = await customer.register(
        "twice.example.test", ACCOUNT, "video", ORIGIN, command_id="twice-1"
    )
    assert second.sequence == first.sequence
    assert (await customer.settled(second.command_id)).revision == settled.revision


async def test_a_refusal_carries_codes_with_sentences(customer: Client) -> None:
    ordered = await customer.disable("nowhere.example.test", ACCOUNT)
    settled = await customer.settled(ordered.command_id)
    assert settled.outcome is Outcome.REFUSED
    assert [one.code.value for one in findings_of(settled)] == ["domain.unknown"]


async def test_progress_is_told_until_every_node_serves(customer: Client, ca: DevCa) -> None:
    await _applied(customer, "progress.example.test")
    pair = CertificatePair(*ca.issue(["progress.example.test"], "ecdsa"))
    told: list[ConvergenceProgress] = []
    ordered = await customer.submit("progress.example.test", ACCOUNT, pair.chain, pair.key)
    settled = await customer.settled(ordered.command_id)
    live = await customer.converged(settled.domain, settled.revision or 0, told.append, limit=60)
    assert (live.nodes, live.revision) == (NODES, settled.revision)
    assert [one.proven for one in told] == sorted({one.proven for one in told})
    again = await customer.converged(settled.domain, settled.revision or 0, limit=60)
    assert again.revision == live.revision


async def test_a_revision_that_never_comes_is_unreachable_after_the_limit(customer: Client) -> None:
    with pytest.raises(
        Unreachable, match=r"not live everywhere at revision 999999999 after 0\.5 s"
    ):
        await customer.converged("progress.example.test", 999_999_999, limit=0.5)


async def test_events_are_caught_up_and_followed_without_a_hole_or_a_double(
    customer: Client,
) -> None:
    since = await customer.last_event() + 1
    await _applied(customer, "stream-0.example.test")
    found: list[Event] = []

    async def follow() -> None:
        async for event in customer.events(since):
            found.append(event)
            if (
                event.about == "stream-5.example.test"
                and event.type == catalogue.EVENT_COMMAND_SETTLED
            ):
                return

    following = asyncio.create_task(follow())
    for number in range(1, 6):
        await _applied(customer, f"stream-{number}.example.test")
    await asyncio.wait_for(following, 20)
    kept = [event.sequence async for event in customer.events(since, follow=False)]
    heard = [event.sequence for event in found]
    assert heard == kept[: len(heard)]
    assert heard == list(range(since, since + len(heard)))


async def test_from_now_on_means_what_comes_after(customer: Client) -> None:
    following = customer.events(subject=catalogue.EVENT_DOMAIN_REGISTERED)
    first = asyncio.ensure_future(anext(following))  # type: ignore[arg-type]
    last = await customer.last_event()
    while not first.done():
        await _applied(customer, f"now-{last}.example.test")
        last += 1
        await asyncio.wait({first}, timeout=1)
    assert first.result().about.startswith("now-")


async def test_a_key_in_clear_never_leaves(
    customer: Client, ca: DevCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    publish = customer.connection.client.publish

    async def spy(subject: str, payload: bytes = b"", *args: object, **more: object) -> None:
        sent.append(payload)
        await publish(subject, payload, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(customer.connection.client, "publish", spy)
    chain, key = ca.issue(["sealed.example.test"], "rsa")
    await customer.check(["sealed.example.test"], ACCOUNT, chain, key)
    await customer.submit("sealed.example.test", ACCOUNT, chain, key)
    assert sum(len(payload) > 1000 for payload in sent) >= 2, "both messages were seen"
    secret = "".join(key.splitlines()[5:9]).encode()
    for payload in sent:
        assert secret not in payload.replace(b"\\n", b"").replace(b"\n", b"")


async def test_sealing_needs_the_submission_key(platform: EmbeddedPlatform) -> None:
    run = platform.run
    async with await connect(run["nats_url"], Path(run["credentials"]["platform"])) as blind:
        with pytest.raises(SettingsError, match="submission key"):
            await blind.submit("x.example.test", ACCOUNT, "", "")
    with pytest.raises(SettingsError, match="submission key is not one"):
        await connect(run["nats_url"], Path(run["credentials"]["platform"]), "bm90IGEga2V5")
