"""A private key goes through everything that can happen to one. Afterwards it is in clear nowhere
but at the submitter and in nginx's memory: in no log, stream, bucket, table, file or core file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from nats.aio.msg import Msg

from clients.edge_node.nginx.dataplane import DataPlane
from clients.edge_node.nginx.entry import NginxEntry
from clients.platform import Platform as Client
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from deploy.residue.residue_scan import find_residue
from shared import catalogue
from shared import subjects as s
from shared.contracts.base import SealedKey
from shared.contracts.codec import parse
from shared.contracts.commands import SubmitCertificate, SubmittedPair
from shared.contracts.domains import Outcome
from shared.contracts.edge import BundleKind, NodeStatus
from shared.crypto.sealing import PublicKey, pair_info, submission_info
from shared.crypto.signing import Purpose
from tests.e2e.logins import Logins
from tests.support import key_search
from tests.support.browser import (
    HandshakeLoad,
    NodeAddress,
    is_refused,
    trusting_context,
)
from tests.support.customer import applied, connected_customer, live, registered, settled, uploaded
from tests.support.factories import make_bundle, make_bundle_pair
from tests.support.pki import issue_pair
from tests.support.trust import PlatformSigners
from tests.support.waiting import LIMIT_SECONDS, until

ACCOUNT = "canary"
DOMAIN = "www.canary.test"
UNLOADABLE = "www.unloadable.test"
NODES = ["node-1", "node-2"]


@dataclass
class KeyJourney:
    """A platform of its own, and the two keys. ``rsa`` and ``ecdsa``: pairs for DOMAIN."""

    platform: EmbeddedPlatform
    customer: Client
    login: Logins
    ca: DevCa
    keys: dict[str, key_search.PrivateKey]
    rsa: CertificatePair
    ecdsa: CertificatePair

    @property
    def nodes(self) -> list[NodeAddress]:
        return [NodeAddress.parse(node["id"], node["https"]) for node in self.platform.run["nodes"]]

    async def upload(self, pair: CertificatePair) -> None:
        await uploaded(self.customer, DOMAIN, ACCOUNT, pair)

    async def kill_with_children(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the children of a process, which hold the key, and then to itself."""
        main = await until(lambda: self.platform.pid(name) or 0, f"{name} runs")
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in [*map(int, reversed(children)), main]:
            os.kill(pid, number)


@pytest.fixture(scope="module")
def core_files_allowed() -> Iterator[None]:
    """Let every process that does not forbid it leave core files where it works."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.fixture(scope="module")
async def journey(scratch: Path, core_files_allowed: None) -> AsyncIterator[KeyJourney]:
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGETLS_LOG_LEVEL", "debug")
            platform = EmbeddedPlatform(scratch / "canary", nodes=len(NODES))
        stack.push_async_callback(platform.stop)
        await platform.start()
        customer = await stack.enter_async_context(connected_customer(platform.run))
        ca = DevCa.load(Path(platform.run["trust_roots"]).parent)
        keys: dict[str, key_search.PrivateKey] = {
            "RSA": await asyncio.to_thread(rsa.generate_private_key, 65537, 2048),
            "ECDSA": ec.generate_private_key(ec.SECP256R1()),
        }
        pairs = [issue_pair(ca, DOMAIN, key=key) for key in keys.values()]
        yield KeyJourney(platform, customer, Logins(platform, stack), ca, keys, *pairs)


async def test_a_private_key_is_in_clear_nowhere_outside_the_submitter(journey: KeyJourney) -> None:
    await registered(journey.customer, DOMAIN, ACCOUNT)
    for step in STEPS:
        await step(journey)
    await _search_what_runs(journey)
    await journey.platform.stop()
    found = await asyncio.to_thread(_search_files, journey)
    assert not found, "\n".join(found)


# What happens to the keys


async def _upload_first(journey: KeyJourney) -> None:
    await journey.upload(journey.rsa)


async def _be_refused(journey: KeyJourney) -> None:
    """Submit and check the keys in the wrong field, with the wrong certificate, with something
    around them."""
    rsa_key, ec_key = journey.keys["RSA"], journey.keys["ECDSA"]
    for chain, key, code in (
        (journey.rsa.chain, journey.ecdsa.key, "key.mismatch"),
        (journey.ecdsa.chain, journey.rsa.key, "key.mismatch"),
        (journey.rsa.chain + journey.rsa.key, journey.rsa.key, "certificate.contains_key"),
        (journey.ecdsa.key, journey.ecdsa.chain, "certificate.contains_key"),
        (journey.ecdsa.chain, journey.ecdsa.key + journey.rsa.key, ""),
        (journey.rsa.chain, journey.rsa.key.replace("PRIVATE KEY", "SECRET"), ""),
        (journey.rsa.chain, journey.rsa.key[: len(journey.rsa.key) // 2], ""),
        (journey.ecdsa.chain, key_search.private_key_der(ec_key)["PKCS8"].hex(), ""),
        (journey.rsa.chain, "x" * 20_000 + journey.rsa.key, ""),
        ("x" * 70_000 + journey.rsa.key, journey.rsa.key, ""),
        (_base64(key_search.private_key_der(rsa_key)["PKCS8"]), journey.rsa.key, ""),
    ):
        end = await settled(
            journey.customer, await journey.customer.submit(DOMAIN, ACCOUNT, chain, key)
        )
        assert end.outcome is Outcome.REFUSED and end.codes, (code, end)
        assert not code or code in end.codes, (code, end)
        report = await journey.customer.check([DOMAIN], ACCOUNT, chain, key)
        assert not any(report.accepted.values()) and report.findings


async def _be_replaced_under_load(journey: KeyJourney) -> None:
    context = trusting_context(Path(journey.platform.run["trust_roots"]))
    async with HandshakeLoad(journey.nodes, DOMAIN, context) as load:
        for pair in (journey.ecdsa, journey.rsa, journey.ecdsa):
            await journey.upload(pair)
    assert load.count and not load.failures, load.failures[:3]


async def _be_unloadable(journey: KeyJourney) -> None:
    """Give the nodes a certificate with another's key.

    It is properly attested, sealed and signed, so that only the node can refuse it. Then put it
    into nginx itself, past the agent's check, and ask for it.
    """
    chain = issue_pair(journey.ca, UNLOADABLE, key=journey.keys["RSA"]).chain
    pair = CertificatePair(chain, journey.ecdsa.key)
    edge_sync = await journey.login("edge_sync")
    nodes_with_fault: set[str] = set()

    async def note_faults(message: Msg) -> None:
        status = parse(NodeStatus, message.data)
        if any(proof.domain == UNLOADABLE and proof.fault for proof in status.proofs):
            nodes_with_fault.add(status.node)

    await edge_sync.subscribe(catalogue.EDGE_STATUS, cb=note_faults)
    subject = s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(UNLOADABLE))
    bucket = edge_sync.jetstream(timeout=30)
    await bucket.publish(subject, _bundle(journey, pair))
    await until(
        lambda: nodes_with_fault == set(NODES), "every node reports that it cannot load the pair"
    )
    for address in journey.nodes:
        plane = DataPlane(journey.platform.data / "nodes" / address.node / "run")
        for key_type in ("rsa", "ecdsa"):
            pems = (pair.chain, pair.key, key_type)
            entry = NginxEntry(UNLOADABLE, 1, "https", (pems,))  # type: ignore[arg-type]
            assert await plane.put_many([entry]) == {}
            for _ in range(5):
                assert await is_refused(address, UNLOADABLE)
        await plane.remove_many([UNLOADABLE])
    # edge_sync keeps what it signed though config does not know it: take it back as it came.
    await bucket.publish(subject, _bundle(journey, None))
    await journey.platform.wait_ready()


async def _become_dead_letters(journey: KeyJourney) -> None:
    """Send a malformed submission and a malformed question, each with the sealed key in it."""
    identity = secrets.token_hex(8)
    key = PublicKey(Path(journey.platform.run["submission_key"]).read_text().strip())
    box = key.seal(journey.rsa.key.encode(), submission_info(ACCOUNT, identity))
    body = SubmitCertificate(
        domain=DOMAIN,
        account=ACCOUNT,
        submission_id=identity,
        pairs=[
            SubmittedPair(certificate=journey.rsa.chain, sealed_key=SealedKey(epoch=0, box=box))
        ],
    ).encode()
    malformed = body.replace(b'{"domain"', b'{"surprise":1,"domain"', 1)
    for user, subject in (
        ("platform", catalogue.CMD_CERTIFICATE_SUBMIT),
        ("config", catalogue.JUDGE_SUBMISSION),
    ):
        js = (await journey.login(user)).jetstream(timeout=30)
        await js.publish(
            subject, malformed, headers={"ce-id": secrets.token_hex(8), "ce-source": "stranger"}
        )
    await _until_dead_letters(journey, 2)


async def _count_dead_letters(journey: KeyJourney) -> int:
    js = (await journey.login("topology")).jetstream(timeout=30)
    return int((await js.stream_info(s.STREAM_DEAD)).state.messages)


async def _until_dead_letters(journey: KeyJourney, count: int) -> None:
    async def are_there() -> bool:
        return await _count_dead_letters(journey) >= count

    await until(are_there, f"{count} messages are dead letters")


async def _be_sent_in_clear(journey: KeyJourney) -> None:
    """Send the keys where a sealed key or none at all belongs, as everybody who may send a command
    or usage."""
    box = PublicKey(Path(journey.platform.run["submission_key"]).read_text().strip())
    expected = await _count_dead_letters(journey)
    for user, subjects in (
        (
            "platform",
            (
                catalogue.CMD_ROOTS_SET,
                catalogue.CMD_DOMAIN_REGISTER,
                catalogue.CMD_CERTIFICATE_SUBMIT,
                catalogue.CMD_BALANCE_CREDIT,
            ),
        ),
        ("platform", (catalogue.USAGE_REQUEST,)),
        ("operator", (catalogue.CMD_NODE_ENROL, catalogue.CMD_PRICE_BOOK_APPLY)),
        (f"node-{NODES[0]}", (catalogue.USAGE_BATCH.for_node(NODES[0]),)),
    ):
        js = (await journey.login(user)).jetstream(timeout=30)
        for subject in subjects:
            for key in journey.keys.values():
                for body in _bodies_in_clear(key):
                    headers = {
                        "ce-id": secrets.token_hex(8),
                        "ce-source": key_search.private_key_pem(key)["PKCS8"].replace("\n", ""),
                    }
                    await js.publish(subject, body, headers=headers)
                    expected += 1
    await _until_dead_letters(journey, expected)
    for pair in (journey.rsa, journey.ecdsa):
        identity = secrets.token_hex(8)
        sealed = box.seal(pair.key.encode(), submission_info(ACCOUNT, identity))
        command = SubmitCertificate(
            domain=DOMAIN,
            account=ACCOUNT,
            submission_id=identity,
            pairs=[
                SubmittedPair(
                    certificate=pair.chain + pair.key, sealed_key=SealedKey(epoch=0, box=sealed)
                )
            ],
        )
        js = (await journey.login("platform")).jetstream(timeout=30)
        await js.publish(
            catalogue.CMD_CERTIFICATE_SUBMIT,
            command.encode(),
            headers={"ce-id": identity, "ce-source": "stranger"},
        )
        end = await journey.customer.settled(identity, limit=LIMIT_SECONDS)
        assert end.outcome is Outcome.REFUSED and "certificate.contains_key" in end.codes, end


def _bodies_in_clear(key: key_search.PrivateKey) -> list[bytes]:
    """Return bodies of no contract, with the key as people paste it or as programs escape it."""
    pem = key_search.private_key_pem(key)["traditional"]
    der = key_search.private_key_der(key)["PKCS8"]
    in_json = json.dumps({"account": ACCOUNT, "private_key": pem})
    escaped = "".join(f"\\u{ord(character):04x}" for character in pem)
    return [
        pem.encode(),
        in_json.encode(),
        json.dumps({"payload": in_json}).encode(),
        f'{{"key": "{escaped}"}}'.encode(),
        json.dumps({"certificate": _base64(der)}).encode(),
        json.dumps({pem: der.hex()}).encode(),
        _base64(pem.encode()).encode(),
    ]


async def _survive_crashes(journey: KeyJourney) -> None:
    """Crash every process that has a key in memory, or a sealed one, while it is busy: by SIGSEGV,
    as a bug would, and by SIGKILL."""
    for number in (signal.SIGSEGV, signal.SIGKILL):
        for name in ("validator", "config", "edge_sync", f"{NODES[0]}-agent", f"{NODES[1]}-nginx"):
            pair = issue_pair(journey.ca, DOMAIN, key=journey.keys["RSA"])
            ordered = await journey.customer.submit(DOMAIN, ACCOUNT, pair.chain, pair.key)
            await journey.kill_with_children(name, number)
            await applied(journey.customer, ordered)
            await until(lambda name=name: journey.platform.pid(name), f"{name} is started again")
    await journey.platform.wait_ready()
    await journey.upload(journey.ecdsa)


async def _be_disabled(journey: KeyJourney) -> None:
    await live(journey.customer, await journey.customer.disable(DOMAIN, ACCOUNT))


Step = Callable[[KeyJourney], Awaitable[None]]
STEPS: list[Step] = [
    _upload_first,
    _be_refused,
    _be_replaced_under_load,
    _be_unloadable,
    _become_dead_letters,
    _be_sent_in_clear,
    _survive_crashes,
    _be_disabled,
]


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _bundle(journey: KeyJourney, pair: CertificatePair | None) -> bytes:
    """Return a bundle as edge_sync would publish it, signed with the platform's own keys; without a
    pair a tombstone."""
    keys = PlatformSigners.read(journey.platform.data)
    epoch = keys.fleet.newest_epoch
    if pair is None:
        bundle = make_bundle(UNLOADABLE, 2, kind=BundleKind.REMOVED, account=ACCOUNT, epoch=epoch)
    else:
        pair_id = "unloadable-pair"
        info = pair_info(ACCOUNT, pair_id, pair.leaf)
        box = keys.fleet.epoch_key(epoch).public().seal(pair.key.encode(), info)
        bundle_pair = make_bundle_pair(
            keys.validator,
            domain=UNLOADABLE,
            pair_id=pair_id,
            leaf=pair.leaf,
            chain=pair.chain,
            sealed_key=SealedKey(epoch=epoch, box=box),
            attested={"account": ACCOUNT},
        )
        bundle = make_bundle(UNLOADABLE, 1, bundle_pair, account=ACCOUNT, epoch=epoch)
    return keys.edge_sync.sign(Purpose.BUNDLE, bundle).encode()


# Where they must not be


async def _search_what_runs(journey: KeyJourney) -> None:
    """Search every row of every table, every message of every stream and bucket, and every file of
    the nodes."""
    platform = journey.platform
    wanted = {name: key_search.key_patterns(key) for name, key in journey.keys.items()}
    folders = [platform.data / "nodes" / node for node in NODES]
    found = await find_residue(
        wanted, platform.run["postgres"], await journey.login("searcher"), folders
    )
    assert not found, "\n".join(found)


def _search_files(journey: KeyJourney) -> list[str]:
    """Search every file below the data folder: logs, PostgreSQL's files and WAL, JetStream's
    blocks, and what else there is."""
    data = journey.platform.data
    wanted = {name: key_search.key_patterns(key) for name, key in journey.keys.items()}
    # By their folder: what each kind of file is known to hold, to show that they are read.
    known = {
        "postgres/data/base/": DOMAIN,
        "postgres/data/pg_wal/": DOMAIN,
        "nats/store/": DOMAIN,
        "logs/": "dead_letter",
        "nodes/": DOMAIN,
    }
    seen: set[str] = set()
    found: list[str] = []
    for path in sorted(
        path for path in data.rglob("*") if path.is_file() and not path.is_symlink()
    ):
        place = str(path.relative_to(data))
        content = path.read_bytes()
        seen |= {
            start
            for start, word in known.items()
            if place.startswith(start) and word.encode() in content
        }
        if path.name == "core" or path.name.startswith("core."):
            found.append(f"{place} is a core file")
        for name, needles in wanted.items():
            found += [f"{place}: {name} {what}" for what in key_search.find_in_file(needles, path)]
        if place.startswith("postgres/data/base/"):
            for name, key in journey.keys.items():
                found += [
                    f"{place}: {name} {what}"
                    for what in key_search.find_compressed_in_file(key, path)
                ]
    assert seen == known.keys(), f"the search does not see the files of {known.keys() - seen}"
    return found
