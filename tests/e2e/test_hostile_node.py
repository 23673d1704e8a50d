"""A hostile node, and whoever holds the broker, send what they like: what is not signed is dropped,
and the other node serves on."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from clients.platform import Platform as Client
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue, topology
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.edge import Bundle, Checkpoint, NodeStatus
from shared.contracts.queries import Nothing
from shared.contracts.usage import Confirmation
from shared.crypto.signing import Purpose, Signer
from shared.messaging.rpc import ask
from tests.e2e.logins import Logins
from tests.support.browser import (
    NodeAddress,
    OriginServer,
    is_refused,
    send_requests,
    served_leaf,
    served_leaves,
    trusting_context,
)
from tests.support.customer import registered, uploaded
from tests.support.pki import issue_pair
from tests.support.waiting import until

ACCOUNT = "hostile"
HOSTILE = "node-1"
VICTIM = "node-2"
BUNDLES = s.kv_stream(s.BUCKET_BUNDLES)
KEYRINGS = s.kv_stream(s.BUCKET_KEYRINGS)
REJECTED = (
    ("feed.rejected", "bundle"),
    ("feed.rejected", "checkpoint"),
    ("usage.rejected", "confirmation"),
)
"""What the victim's agent logs when it rejects a message: the event and what it is about."""


@dataclass
class AttackedNode:
    """The victim and what it serves. ``domain``: what both nodes serve, with ``pair``; ``other``: a
    domain whose bundle the hostile node has sent as the first one's."""

    platform: EmbeddedPlatform
    customer: Client
    login: Logins
    address: NodeAddress
    domain: str
    other: str
    pair: CertificatePair

    @property
    def context(self) -> ssl.SSLContext:
        return trusting_context(Path(self.platform.run["trust_roots"]))

    @property
    def live_subject(self) -> str:
        return f"{s.EDGE_LIVE_PREFIX}{s.bundle_key(self.domain)}"

    def count_rejected(self, event: str, what: str) -> int:
        """Return how often the victim's agent logged that it rejected something."""
        lines = self.platform.log(f"{VICTIM}-agent").read_text().splitlines()
        found = (json.loads(line) for line in lines if line.startswith("{"))
        return sum(line["event"] == event and line.get("what", "") == what for line in found)

    async def stored_bundle(self, domain: str) -> bytes:
        """Return the signed bundle in the bucket."""
        js = (await self.login("searcher")).jetstream(timeout=30)
        message = await js.get_msg(
            BUNDLES, subject=s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain))
        )
        return message.data or b""

    async def assert_serves_on(self) -> None:
        """Assert that the victim serves what it served, is in sync, and counts the requests that it
        gets now to the last one."""
        leaf = await served_leaf(self.address, self.domain, self.context)
        assert leaf == self.pair.leaf
        assert await is_refused(self.address, "evil.test")
        before = await self._count_requests()
        await send_requests(self.address, self.domain, self.context, 40)
        await until(lambda: self._has_counted(before, 40), "40 requests are counted and confirmed")
        await until(self._is_in_sync, "the victim is live and in sync")

    async def _has_counted(self, before: int, more: int) -> bool:
        counted = await self._count_requests() - before
        assert counted <= more, f"{counted} of {more} requests were counted"
        logs = [log for log in await self.customer.logs() if log.node == VICTIM]
        confirmed = {log.log: log.confirmed_to for log in (await self.next_status()).logs}
        folder = self.platform.data / "nodes" / VICTIM / "usage"
        sizes = {
            path.stem: path.stat().st_size for path in folder.glob("*.log") if not path.is_symlink()
        }
        for log, size in sizes.items():
            assert confirmed.get(log, 0) <= size, "more is confirmed than was logged"
        if counted < more or confirmed != sizes:
            return False
        return all(log.stored_to == sizes.get(log.log) for log in logs)

    async def _count_requests(self) -> int:
        now = datetime.now(UTC)
        rows = await self.customer.usage(
            now - timedelta(hours=1), now + timedelta(hours=1), by="domain", domain=self.domain
        )
        return sum(row.https_requests for row in rows)

    async def _is_in_sync(self) -> bool:
        view = await ask(await self.login("operator"), catalogue.RPC_FLEET_SHOW, Nothing())
        return any(
            node.node == VICTIM and node.state == "live" and node.in_sync for node in view.nodes
        )

    async def next_status(self) -> NodeStatus:
        """Return the next status that the victim reports."""
        edge_sync = await self.login("edge_sync")
        message = await next_message(edge_sync, catalogue.EDGE_STATUS.for_node(VICTIM))
        return parse(NodeStatus, message)

    async def stands_at(self, sequence: int) -> bool:
        """Tell whether the victim has read the bundles up to this sequence."""
        return (await self.next_status()).sequence == sequence

    async def upload(self, pair: CertificatePair) -> None:
        """Replace the domain's certificate and wait until both nodes serve it."""
        await uploaded(self.customer, self.domain, ACCOUNT, pair)
        self.pair = pair


async def next_message(client: Connection, subject: str) -> bytes:
    """Return the body of the next message on a subject."""
    found: list[bytes] = []

    async def note_body(message: Msg) -> None:
        found.append(message.data)

    subscription = await client.subscribe(subject, cb=note_body)
    try:
        return await until(lambda: found and found[0], f"something comes on {subject}")
    finally:
        await subscription.unsubscribe()


@pytest.fixture
async def victim(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, login: Logins, nodes: list[NodeAddress]
) -> AsyncIterator[AttackedNode]:
    tag = secrets.token_hex(3)
    domain = f"www.victim-{tag}.test"
    other = f"www.other-{tag}.test"
    address = next(node for node in nodes if node.node == VICTIM)
    async with OriginServer() as origin:
        for name in (domain, other):
            await registered(customer, name, ACCOUNT, origin.port)
        await uploaded(customer, other, ACCOUNT, issue_pair(ca, other))
        pair = issue_pair(ca, domain)
        await uploaded(customer, domain, ACCOUNT, pair)
        yield AttackedNode(platform, customer, login, address, domain, other, pair)


def _tampered(signed: bytes, **changes: object) -> bytes:
    """Return the same signature over another payload."""
    envelope = parse(Signed, signed)
    payload = _changed_payload(envelope, changes)
    return envelope.model_copy(update={"payload": payload}).encode()


def _forged(signed: bytes, purpose: Purpose, **changes: object) -> bytes:
    """Return another payload, signed by a key that has the real one's id."""
    envelope = parse(Signed, signed)
    payload = _changed_payload(envelope, changes)
    return Signer.generate(envelope.key_id).sign(purpose, payload.encode()).encode()


def _changed_payload(envelope: Signed, changes: dict[str, object]) -> str:
    return json.dumps({**json.loads(envelope.payload), **changes}, separators=(",", ":"))


async def test_what_a_hostile_nodes_replies_bring_to_another_node_is_dropped(
    victim: AttackedNode,
) -> None:
    hostile = await victim.login(f"node-{HOSTILE}")
    bundles = s.direct_get(BUNDLES)
    questions = [
        (bundles, {"last_by_subj": s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(victim.other))}),
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
        victim.live_subject,
        f"{s.EDGE_LIVE_PREFIX}test.evil",
        catalogue.EDGE_CHECKPOINT,
        catalogue.EDGE_CONFIRMED.for_node(VICTIM),
        catalogue.EDGE_STATUS.for_node(VICTIM),
        catalogue.USAGE_BATCH.for_node(VICTIM),
    ]
    before = {kind: victim.count_rejected(*kind) for kind in REJECTED}
    for subject, body in questions:
        for target in targets:
            await hostile.publish(subject, json.dumps(body).encode(), reply=target)
    await hostile.flush()
    for kind, count in before.items():
        await until(
            lambda kind=kind, count=count: victim.count_rejected(*kind) > count,
            f"the victim rejects: {kind}",
        )
    await victim.assert_serves_on()


async def test_a_hostile_nodes_replies_do_not_move_another_nodes_place_in_the_stream(
    victim: AttackedNode, ca: DevCa
) -> None:
    """The replies hold what stands in another bucket at just the sequences that come next in that
    of the bundles: the trust document, and the sealing epoch where edge_sync has put it meanwhile.
    """
    hostile = await victim.login(f"node-{HOSTILE}")
    listener = await victim.login(f"node-{VICTIM}")
    reply_subject = f"{s.EDGE_LIVE_PREFIX}test.evil"
    trust = s.kv_subject(s.BUCKET_KEYRINGS, s.KEYRING_TRUST)
    sealing = s.kv_subject(s.BUCKET_KEYRINGS, s.KEYRING_SEALING)
    put = (await victim.login("edge_sync")).jetstream(timeout=30)
    searcher = (await victim.login("searcher")).jetstream(timeout=30)
    document = (await searcher.get_msg(KEYRINGS, subject=trust)).data or b""
    arrived: set[int] = set()

    async def note_sequence(message: Msg) -> None:
        arrived.add(int((message.headers or {})["Nats-Sequence"]))

    await listener.subscribe(reply_subject, cb=note_sequence)
    await listener.flush()
    keyrings_end = (await put.publish(trust, document)).seq
    bundle_subject = s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(victim.other))
    bundle = await victim.stored_bundle(victim.other)
    bundles_end = 0
    # edge_sync puts the sealing epoch every few seconds, also while the victim follows.
    while bundles_end < keyrings_end + 20:
        bundles_end = (await put.publish(bundle_subject, bundle)).seq
    await until(lambda: victim.stands_at(bundles_end), "the victim has followed")
    while keyrings_end < bundles_end + 20:
        keyrings_end = (await put.publish(trust, document)).seq
        if keyrings_end > bundles_end:
            for key in (sealing, trust):
                await hostile.publish(f"{s.direct_get(KEYRINGS)}.{key}", b"", reply=reply_subject)
            await until(
                lambda sequence=keyrings_end: sequence in arrived, "the reply comes to the victim"
            )
    assert arrived >= set(range(bundles_end + 1, bundles_end + 21))
    assert await victim.stands_at(bundles_end)
    await victim.upload(issue_pair(ca, victim.domain))
    await victim.assert_serves_on()


async def test_a_hostile_node_speaks_on_no_subject_of_others(victim: AttackedNode) -> None:
    """Its rights end at the broker: not even signed messages of others, sent again, arrive."""
    hostile = await victim.login(f"node-{HOSTILE}")
    own_subjects = topology.node_user(HOSTILE).publish
    bundle = await victim.stored_bundle(victim.domain)
    checkpoint = await next_message(hostile, catalogue.EDGE_CHECKPOINT)
    arrived: list[Msg] = []

    async def note_message(message: Msg) -> None:
        arrived.append(message)

    listener = await victim.login(f"node-{VICTIM}")
    for subject in (catalogue.EDGE_LIVE, catalogue.EDGE_CONFIRMED.for_node(VICTIM)):
        await listener.subscribe(subject, cb=note_message)
    await listener.flush()
    for subject in (
        victim.live_subject,
        catalogue.EDGE_CHECKPOINT,
        catalogue.EDGE_CONFIRMED.for_node(VICTIM),
        catalogue.EDGE_CONFIRMED.for_node(HOSTILE),
    ):
        assert subject not in own_subjects
        for body in (b"garbage", bundle, checkpoint, _tampered(bundle, revision=10**9)):
            await hostile.publish(subject, body, headers={"hostile": "yes"})
    await hostile.flush()
    await victim.assert_serves_on()
    assert not [message.subject for message in arrived if (message.headers or {}).get("hostile")]


async def test_who_holds_the_broker_makes_a_node_take_nothing(
    victim: AttackedNode, ca: DevCa, nodes: list[NodeAddress]
) -> None:
    """With the logins of edge_sync and billing, but not their signing keys."""
    edge_sync = await victim.login("edge_sync")
    billing = await victim.login("billing")
    bundle = await victim.stored_bundle(victim.domain)
    bundle_of_other = await victim.stored_bundle(victim.other)
    listener = await victim.login(f"node-{VICTIM}")
    checkpoint = await next_message(listener, catalogue.EDGE_CHECKPOINT)
    confirmation = await _catch_confirmation(victim)
    confirmed = parse(Confirmation, parse(Signed, confirmation).payload.encode())

    before = {kind: victim.count_rejected(*kind) for kind in REJECTED}
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
    beyond_the_log = confirmed.end + 10**6
    for body in (
        b"garbage",
        checkpoint,
        _tampered(confirmation, end=beyond_the_log),
        _forged(confirmation, Purpose.CONFIRMATION, end=beyond_the_log),
        confirmation,
    ):
        await billing.publish(catalogue.EDGE_CONFIRMED.for_node(VICTIM), body)
    revision = parse(Bundle, parse(Signed, bundle).payload.encode()).revision
    put = edge_sync.jetstream(timeout=30)
    for body in (
        b"garbage",
        bundle_of_other,
        _tampered(bundle, revision=revision + 1000, kind="http_only", pairs=[]),
        _forged(
            bundle, Purpose.BUNDLE, revision=revision + 1000, kind="removed", pairs=[], origin=None
        ),
    ):
        await put.publish(s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(victim.domain)), body)
    for (event, what), count in before.items():
        await until(
            lambda event=event, what=what, count=count: (
                victim.count_rejected(event, what) >= count + 3
            ),
            f"the victim rejects at least three: {event} {what}",
        )
    leaves = await served_leaves(nodes, victim.domain, victim.context)
    assert leaves == {victim.pair.leaf}
    # The bucket holds a forgery now: what is truly signed next, at its own revision, is taken all
    # the same.
    await victim.upload(issue_pair(ca, victim.domain))
    await victim.assert_serves_on()


async def _catch_confirmation(victim: AttackedNode) -> bytes:
    """Return a true one, caught on its way to the victim."""
    found: list[bytes] = []

    async def note_body(message: Msg) -> None:
        found.append(message.data)

    listener = await victim.login(f"node-{VICTIM}")
    await listener.subscribe(catalogue.EDGE_CONFIRMED.for_node(VICTIM), cb=note_body)
    await victim.assert_serves_on()
    return found[-1]
