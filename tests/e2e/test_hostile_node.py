"""A hostile node, and whoever holds the broker: what is not signed is dropped, and the other node
serves on."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from clients.platform import Platform as Client
from deploy.demo.visitors.handshakes import Endpoint, fetch_leaf, is_refused, verifying_context
from deploy.demo.visitors.http_requests import send_requests
from deploy.demo.visitors.origin_server import DemoOrigin
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue, topology
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.domains import Outcome
from shared.contracts.edge import Bundle, Checkpoint, NodeStatus
from shared.contracts.queries import Nothing
from shared.contracts.usage import Confirmation
from shared.crypto.signing import Purpose, Signer
from shared.messaging.rpc import ask
from tests.e2e.logins import Logins
from tests.support.waiting import until

ACCOUNT = "hostile"
HOSTILE, VICTIM = "node-1", "node-2"
BUNDLES, KEYRINGS = s.kv_stream(s.BUCKET_BUNDLES), s.kv_stream(s.BUCKET_KEYRINGS)


class Scene:
    """A domain that both nodes serve, and another one of the hostile node's liking."""

    def __init__(
        self,
        platform: EmbeddedPlatform,
        customer: Client,
        login: Logins,
        domain: str,
        other: str,
        pair: CertificatePair,
    ) -> None:
        self.platform, self.customer, self.login = platform, customer, login
        self.domain, self.other, self.pair = domain, other, pair
        self.context = verifying_context(Path(platform.run["trust_roots"]))
        self.nodes = [Endpoint.parse(node["id"], node["https"]) for node in platform.run["nodes"]]
        self.victim = next(node for node in self.nodes if node.node == VICTIM)

    @property
    def live(self) -> str:
        return f"{s.EDGE_LIVE_PREFIX}{s.bundle_key(self.domain)}"

    def dropped(self, event: str, what: str) -> int:
        """How often the victim's agent said that it dropped something."""
        lines = self.platform.log(f"{VICTIM}-agent").read_text().splitlines()
        found = (json.loads(line) for line in lines if line.startswith("{"))
        return sum(line["event"] == event and line.get("what", "") == what for line in found)

    async def stored(self, domain: str) -> bytes:
        """The signed bundle in the bucket."""
        js = (await self.login("searcher")).jetstream(timeout=5)
        message = await js.get_msg(
            BUNDLES, subject=s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain))
        )
        return message.data or b""

    async def serves_on(self) -> None:
        """The victim serves what it served, is in sync, and counts to the last request what it is
        asked now."""
        assert await fetch_leaf(self.victim, self.domain, self.context) == self.pair.leaf
        assert await is_refused(self.victim, "evil.test")
        before = await self._counted()
        assert await send_requests([self.victim], [self.domain], self.context, 40) == []
        await until(
            lambda: self._grown(before, 40), "40 requests are counted and confirmed", limit=20
        )
        await until(self._in_sync, "the victim is live and in sync", limit=20)

    async def _grown(self, before: int, more: int) -> bool:
        counted = await self._counted() - before
        assert counted <= more, f"{counted} of {more} requests were counted"
        logs = [log for log in await self.customer.logs() if log.node == VICTIM]
        told = {log.log: log.confirmed_to for log in (await self.status()).logs}
        folder = self.platform.data / "nodes" / VICTIM / "usage"
        sizes = {
            path.stem: path.stat().st_size for path in folder.glob("*.log") if not path.is_symlink()
        }
        assert all(told.get(log, 0) <= size for log, size in sizes.items()), (
            "more is confirmed than was logged"
        )
        return (
            counted == more
            and told == sizes
            and all(log.stored_to == sizes.get(log.log) for log in logs)
        )

    async def _counted(self) -> int:
        now = datetime.now(UTC)
        rows = await self.customer.usage(
            now - timedelta(hours=1), now + timedelta(hours=1), by="domain", domain=self.domain
        )
        return sum(row.https_requests for row in rows)

    async def _in_sync(self) -> bool:
        view = await ask(await self.login("operator"), catalogue.RPC_FLEET_SHOW, Nothing())
        return any(
            node.node == VICTIM and node.state == "live" and node.in_sync for node in view.nodes
        )

    async def status(self) -> NodeStatus:
        return parse(
            NodeStatus,
            await heard(await self.login("edge_sync"), catalogue.EDGE_STATUS.for_node(VICTIM)),
        )

    async def uploads(self, pair: CertificatePair) -> None:
        ordered = await self.customer.submit(self.domain, ACCOUNT, pair.chain, pair.key)
        settled = await self.customer.settled(ordered.command_id)
        assert settled.outcome is Outcome.APPLIED, settled
        await self.customer.converged(self.domain, settled.revision or 0, limit=20)
        self.pair = pair


async def heard(client: Connection, subject: str) -> bytes:
    """The next message."""
    found: list[bytes] = []

    async def note(message: Msg) -> None:
        found.append(message.data)

    subscription = await client.subscribe(subject, cb=note)
    try:
        return await until(lambda: found and found[0], f"something comes on {subject}")
    finally:
        await subscription.unsubscribe()


@pytest.fixture
async def scene(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, login: Logins
) -> AsyncIterator[Scene]:
    tag = secrets.token_hex(3)
    domain, other = f"www.victim-{tag}.test", f"www.other-{tag}.test"
    async with DemoOrigin() as origin:
        for name in (domain, other):
            ordered = await customer.register(
                name, ACCOUNT, "video", f"http://127.0.0.1:{origin.port}"
            )
            assert (await customer.settled(ordered.command_id)).outcome is Outcome.APPLIED
        made = Scene(
            platform, customer, login, other, domain, CertificatePair(*ca.issue([other], "ecdsa"))
        )
        await made.uploads(made.pair)
        made.domain, made.other = domain, other
        await made.uploads(CertificatePair(*ca.issue([domain], "ecdsa")))
        yield made


def _tampered(signed: bytes, **changes: object) -> bytes:
    """The same signature over another payload."""
    one = parse(Signed, signed)
    payload = json.dumps({**json.loads(one.payload), **changes}, separators=(",", ":"))
    return one.model_copy(update={"payload": payload}).encode()


def _forged(signed: bytes, purpose: Purpose, **changes: object) -> bytes:
    """Signed by a key that calls itself like the real one."""
    one = parse(Signed, signed)
    payload = json.dumps({**json.loads(one.payload), **changes}, separators=(",", ":"))
    return Signer.generate(one.key_id).sign(purpose, payload.encode()).encode()


async def test_what_a_hostile_nodes_replies_bring_to_another_node_is_dropped(scene: Scene) -> None:
    hostile = await scene.login(f"node-{HOSTILE}")
    bundles = s.direct_get(BUNDLES)
    questions = [
        (bundles, {"last_by_subj": s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(scene.other))}),
        (bundles, {"seq": 1, "batch": 50, "next_by_subj": ">"}),
        (bundles, {"no": "question"}),
        *(
            (f"{s.direct_get(KEYRINGS)}.{s.kv_subject(s.BUCKET_KEYRINGS, key)}", {})
            for key in (s.keyring_node(HOSTILE), s.KEYRING_TRUST, s.KEYRING_SEALING, "epoch.1")
        ),
        (catalogue.USAGE_BATCH.for_node(HOSTILE), {"garbage": True}),
        (catalogue.RPC_EDGE_DIGEST, {"bucket": None}),
        (catalogue.RPC_EDGE_DIGEST, {"x": 1}),
    ]
    targets = [
        scene.live,
        f"{s.EDGE_LIVE_PREFIX}test.evil",
        catalogue.EDGE_CHECKPOINT,
        catalogue.EDGE_CONFIRMED.for_node(VICTIM),
        catalogue.EDGE_STATUS.for_node(VICTIM),
        catalogue.USAGE_BATCH.for_node(VICTIM),
    ]
    before = {kind: scene.dropped(*kind) for kind in DROPPED}
    for subject, body in questions:
        for target in targets:
            await hostile.publish(subject, json.dumps(body).encode(), reply=target)
    await hostile.flush()
    for kind, count in before.items():
        await until(
            lambda kind=kind, count=count: scene.dropped(*kind) > count, f"the victim drops: {kind}"
        )
    await scene.serves_on()


DROPPED = (
    ("feed.rejected", "bundle"),
    ("feed.rejected", "checkpoint"),
    ("usage.rejected", "confirmation"),
)


async def test_a_hostile_nodes_replies_do_not_move_another_nodes_place_in_the_stream(
    scene: Scene, ca: DevCa
) -> None:
    """What stands in another bucket, at just the places that come next in that of the bundles: the
    trust document, and the sealing word where edge_sync said it meanwhile."""
    hostile, victim = await scene.login(f"node-{HOSTILE}"), await scene.login(f"node-{VICTIM}")
    trust, sealing = (
        s.kv_subject(s.BUCKET_KEYRINGS, key) for key in (s.KEYRING_TRUST, s.KEYRING_SEALING)
    )
    put = (await scene.login("edge_sync")).jetstream(timeout=5)
    document = (
        await (await scene.login("searcher")).jetstream(timeout=5).get_msg(KEYRINGS, subject=trust)
    ).data
    arrived: set[int] = set()

    async def note(message: Msg) -> None:
        arrived.add(int((message.headers or {})["Nats-Sequence"]))

    await victim.subscribe(f"{s.EDGE_LIVE_PREFIX}test.evil", cb=note)
    await victim.flush()
    place, end, bundle = (
        (await put.publish(trust, document or b"")).seq,
        0,
        await scene.stored(scene.other),
    )
    while (
        end < place + 20
    ):  # edge_sync says its word every few seconds, also while the victim follows
        end = (
            await put.publish(s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(scene.other)), bundle)
        ).seq
    await until(lambda: _stands_at(scene, end), "the victim has followed")
    while place < end + 20:
        place = (await put.publish(trust, document or b"", timeout=5)).seq
        if place > end:
            for key in (sealing, trust):
                await hostile.publish(
                    f"{s.direct_get(KEYRINGS)}.{key}", b"", reply=f"{s.EDGE_LIVE_PREFIX}test.evil"
                )
            await until(lambda place=place: place in arrived, "the reply comes to the victim")
    assert arrived >= set(range(end + 1, end + 21))
    assert await _stands_at(scene, end)
    await scene.uploads(CertificatePair(*ca.issue([scene.domain], "ecdsa")))
    await scene.serves_on()


async def test_a_hostile_node_speaks_on_no_subject_of_others(scene: Scene) -> None:
    """Its rights end at the broker: not even signed words of others, said again, arrive."""
    hostile = await scene.login(f"node-{HOSTILE}")
    mine = topology.node_user(HOSTILE).publish
    bundle, checkpoint = (
        await scene.stored(scene.domain),
        await heard(hostile, catalogue.EDGE_CHECKPOINT),
    )
    arrived: list[Msg] = []

    async def note(message: Msg) -> None:
        arrived.append(message)

    victim = await scene.login(f"node-{VICTIM}")
    for subject in (catalogue.EDGE_LIVE, catalogue.EDGE_CONFIRMED.for_node(VICTIM)):
        await victim.subscribe(subject, cb=note)
    await victim.flush()
    for subject in (
        scene.live,
        catalogue.EDGE_CHECKPOINT,
        catalogue.EDGE_CONFIRMED.for_node(VICTIM),
        catalogue.EDGE_CONFIRMED.for_node(HOSTILE),
    ):
        assert subject not in mine
        for body in (b"garbage", bundle, checkpoint, _tampered(bundle, revision=10**9)):
            await hostile.publish(subject, body, headers={"hostile": "yes"})
    await hostile.flush()
    await scene.serves_on()
    assert not [message.subject for message in arrived if (message.headers or {}).get("hostile")]


async def test_who_holds_the_broker_makes_a_node_take_nothing(
    scene: Scene, ca: DevCa, nodes: list[Endpoint]
) -> None:
    """With the logins of edge_sync and billing, but not their signing keys."""
    edge_sync, billing = await scene.login("edge_sync"), await scene.login("billing")
    bundle, foreign = await scene.stored(scene.domain), await scene.stored(scene.other)
    checkpoint = await heard(await scene.login(f"node-{VICTIM}"), catalogue.EDGE_CHECKPOINT)
    confirmation = await _confirmation(scene)
    log = parse(Confirmation, parse(Signed, confirmation).payload.encode())

    before = {kind: scene.dropped(*kind) for kind in DROPPED}
    sequence = parse(Checkpoint, parse(Signed, checkpoint).payload.encode()).sequence
    for body in (
        b"garbage",
        b"{}",
        bundle,
        _tampered(checkpoint, sequence=sequence + 1000, root="0" * 64),
        _forged(checkpoint, Purpose.CHECKPOINT, incarnation="another"),
        checkpoint,
    ):
        await edge_sync.publish(catalogue.EDGE_CHECKPOINT, body)
    far = log.end + 10**6
    for body in (
        b"garbage",
        checkpoint,
        _tampered(confirmation, end=far),
        _forged(confirmation, Purpose.CONFIRMATION, end=far),
        confirmation,
    ):
        await billing.publish(catalogue.EDGE_CONFIRMED.for_node(VICTIM), body)
    revision = parse(Bundle, parse(Signed, bundle).payload.encode()).revision
    put = edge_sync.jetstream(timeout=5)
    for body in (
        b"garbage",
        foreign,
        _tampered(bundle, revision=revision + 1000, kind="http_only", pairs=[]),
        _forged(
            bundle, Purpose.BUNDLE, revision=revision + 1000, kind="removed", pairs=[], origin=None
        ),
    ):
        await put.publish(s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(scene.domain)), body)
    for (event, what), count in before.items():
        await until(
            lambda event=event, what=what, count=count: scene.dropped(event, what) >= count + 3,
            f"the victim drops at least three: {event} {what}",
        )
    for node in nodes:
        assert await fetch_leaf(node, scene.domain, scene.context) == scene.pair.leaf
    # The bucket holds a forgery now: what is truly signed next, at its own revision, is taken all
    # the same.
    await scene.uploads(CertificatePair(*ca.issue([scene.domain], "ecdsa")))
    await scene.serves_on()


async def _stands_at(scene: Scene, sequence: int) -> bool:
    return (await scene.status()).sequence == sequence


async def _confirmation(scene: Scene) -> bytes:
    """A true one, caught on its way to the victim."""
    found: list[bytes] = []

    async def note(message: Msg) -> None:
        found.append(message.data)

    await (await scene.login(f"node-{VICTIM}")).subscribe(
        catalogue.EDGE_CONFIRMED.for_node(VICTIM), cb=note
    )
    await scene.serves_on()
    return found[-1]
