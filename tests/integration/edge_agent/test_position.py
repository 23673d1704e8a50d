"""A place in the stream is in no signature: what is feigned with it hides nothing for long."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.request import urlopen

from nats.aio.client import Client
from nats.aio.msg import Msg

from clients.fleet.keys import NODE_SEED
from deploy.embedded.nats import login
from deploy.embedded.ports import HOST, Ports
from shared import catalogue
from shared import subjects as s
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import NODE
from tests.support.waiting import until


class Hostile:
    """Asks the broker for what another bucket holds, with a subject of bundles as the reply: it
    arrives there with its place in that other bucket."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self._stage, self._client = stage, client
        self._heard: list[Msg] = []

    @classmethod
    async def make(cls, stage: Stage) -> Hostile:
        """At the place at which the bundles end."""
        client = await login(
            stage.broker.broker.url, f"node-{NODE}", stage.node.base / "keys" / NODE_SEED
        )
        made = cls(stage, client)
        await client.subscribe(catalogue.EDGE_LIVE, cb=made._hear)
        place = 0
        while place != stage.control.sequence:
            assert place < stage.control.sequence, "the other bucket is not ahead"
            place = await made._store(b"filling")
        return made

    async def say(self, domain: str, body: bytes) -> None:
        """At the next place."""
        await self._store(body)
        self._heard.clear()
        subject = f"{s.direct_get(s.kv_stream(s.BUCKET_KEYRINGS))}.{_TRUST}"
        await self._client.publish(
            subject, b"", reply=f"{s.EDGE_LIVE_PREFIX}{s.bundle_key(domain)}"
        )
        await until(lambda: self._heard, "it is said")

    async def _store(self, body: bytes) -> int:
        return (await self._stage.control.edge_sync.jetstream(timeout=5).publish(_TRUST, body)).seq

    async def _hear(self, message: Msg) -> None:
        self._heard.append(message)


_TRUST = s.kv_subject(s.BUCKET_KEYRINGS, s.KEYRING_TRUST)


def next_statuses(stage: Stage, count: int = 2) -> Callable[[], bool]:
    before = len(stage.control.statuses)
    return lambda: len(stage.control.statuses) >= before + count


async def many(stage: Stage) -> None:
    for revision in range(1, 9):
        await stage.control.put(stage.signers.bundle(f"d{revision}.test", revision))
    await stage.control.agrees(NODE)


async def test_an_unsigned_live_message_does_not_move_the_position(stage: Stage) -> None:
    await many(stage)
    hostile = await Hostile.make(stage)
    stage.control.silent = True
    for _ in range(30):
        await hostile.say("a.test", b"unsigned")
    await until(lambda: "feed.dropped" in stage.node.log("agent"), "they are dropped")
    await until(next_statuses(stage), "it reports")
    assert stage.control.statuses[-1].sequence == stage.control.sequence
    assert stage.node.log("agent").count("feed.dropped") <= 20, "a flood is counted, not written"
    # What it does not hear live, it learns from the next checkpoint.
    await stage.restart_broker_unheard()
    missed = await stage.https("a.test", 9)
    stage.agent_wakes()
    stage.control.silent = False
    await stage.node.serves("a.test", missed)


async def test_a_signed_bundle_said_again_at_later_places_is_found_out_by_the_checkpoints(
    stage: Stage,
) -> None:
    await many(stage)
    hostile = await Hostile.make(stage)
    stage.control.silent = True
    newest = stage.signers.signed(stage.signers.bundle("d8.test", 8))
    for _ in range(10):
        await hostile.say("d8.test", newest)
    await until(
        lambda: stage.control.statuses[-1].sequence == stage.control.sequence + 10, "it is taken in"
    )
    stage.node.stop("agent")
    stage.node.start("agent")
    stage.control.silent = False
    stage.control.statuses.clear()
    await stage.control.agrees(NODE)
    assert "feed.position_feigned" in stage.node.log("agent")
    following = await stage.https("a.test", 9)
    await stage.node.serves("a.test", following)
    await stage.control.agrees(NODE)


async def test_a_bundle_that_is_behind_moves_nothing_however_it_is_signed(stage: Stage) -> None:
    await many(stage)
    stage.control.sequence = await stage.control.put(stage.signers.bundle("d1.test", 9))
    await stage.control.agrees(NODE)
    hostile = await Hostile.make(stage)
    stage.control.silent = True
    for _ in range(5):
        await hostile.say("d1.test", stage.signers.signed(stage.signers.bundle("d1.test", 1)))
    await until(next_statuses(stage), "it reports")
    assert stage.control.statuses[-1].sequence == stage.control.sequence


async def test_what_no_signature_can_tell_of_is_not_repaired_for_ever(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    """The bucket's own marks of a deletion, and garbage in it."""
    stage = await make_stage()
    port = Ports(stage.node.base / "ports.json").pick("health")
    stage.node.environment["EDGETLS_HEALTH_PORT"] = str(port)
    stage.node.start()
    await stage.https("a.test", 1)
    await stage.control.agrees(NODE)

    def repairs() -> float:
        text = urlopen(f"http://{HOST}:{port}/metrics").read().decode()
        return sum(
            float(n)
            for n in re.findall(r"^edgetls_node_repairs_total.* (\S+)$", text, re.MULTILINE)
        )

    for body in (b"", b"garbage"):
        stage.control.sequence = await stage.control.put_raw("b.test", body)
        stage.control.statuses.clear()
        await stage.control.agrees(NODE)
        before = repairs()
        await until(next_statuses(stage, 3), "some thirty checkpoints later")
        assert repairs() == before
