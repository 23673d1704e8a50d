"""A private key is pushed through everything that can happen to one; afterwards it is in clear
nowhere outside the submitter and nginx's memory: no log, stream, bucket, table, file, core file."""

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
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from clients.edge_node.nginx.dataplane import DataPlane
from clients.edge_node.nginx.entry import NginxEntry
from clients.fleet.fleet_file import FleetFile
from clients.platform import Platform as Client
from clients.platform import connect
from deploy.demo.visitors.handshakes import (
    Endpoint,
    FleetHandshakes,
    is_refused,
    unverified_context,
    verifying_context,
)
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from deploy.residue.residue_scan import find_residue as search
from shared import catalogue
from shared import subjects as s
from shared.contracts.base import SealedKey
from shared.contracts.codec import parse
from shared.contracts.commands import SubmitCertificate, SubmittedPair
from shared.contracts.domains import Origin, Outcome, Settings
from shared.contracts.edge import Bundle, BundleKind, BundlePair, NodeStatus
from shared.contracts.judging import Attestation
from shared.crypto.sealing import PrivateKey as SealingKey
from shared.crypto.sealing import PublicKey, pair_info, submission_info
from shared.crypto.signing import Purpose
from shared.runtime import read_signer
from tests.e2e.logins import Logins
from tests.support import canary
from tests.support.waiting import until

ACCOUNT, DOMAIN, UNLOADABLE = "canary", "www.canary.test", "www.unloadable.test"
NODES = ["node-1", "node-2"]


@dataclass
class Cage:
    """A platform of its own, and the two keys. ``rsa`` and ``ecdsa``: pairs for DOMAIN."""

    platform: EmbeddedPlatform
    customer: Client
    login: Logins
    ca: DevCa
    keys: dict[str, canary.PrivateKey]
    rsa: CertificatePair
    ecdsa: CertificatePair

    @property
    def nodes(self) -> list[Endpoint]:
        return [Endpoint.parse(node["id"], node["https"]) for node in self.platform.run["nodes"]]

    async def submit(self, chain: str, key: str) -> tuple[Outcome, list[str], int]:
        ordered = await self.customer.submit(DOMAIN, ACCOUNT, chain, key)
        settled = await self.customer.settled(ordered.command_id, limit=60)
        return settled.outcome, settled.codes, settled.revision or 0

    async def live(self, pair: CertificatePair) -> None:
        outcome, codes, revision = await self.submit(pair.chain, pair.key)
        assert outcome is Outcome.APPLIED, codes
        await self.customer.converged(DOMAIN, revision, limit=60)

    def pids(self, name: str) -> list[int]:
        """A process and its children."""
        main = self.platform.pid(name)
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [*([main] if main else []), *map(int, children)]


@pytest.fixture(scope="module")
def dumping() -> Iterator[None]:
    """Whatever does not forbid it leaves core files where it works."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.fixture(scope="module")
async def cage(scratch: Path, dumping: None) -> AsyncIterator[Cage]:
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGETLS_LOG_LEVEL", "debug")
            platform = EmbeddedPlatform(scratch / "canary", nodes=len(NODES))
        stack.push_async_callback(platform.stop)
        await platform.start()
        run = platform.run
        customer = await stack.enter_async_context(
            await connect(
                run["nats_url"], Path(run["credentials"]["platform"]), Path(run["submission_key"])
            )
        )
        ca = DevCa.load(Path(run["trust_roots"]).parent)
        keys: dict[str, canary.PrivateKey] = {
            "RSA": await asyncio.to_thread(rsa.generate_private_key, 65537, 2048),
            "ECDSA": ec.generate_private_key(ec.SECP256R1()),
        }
        pairs = [CertificatePair(*ca.issue([DOMAIN], key)) for key in keys.values()]
        yield Cage(platform, customer, Logins(platform, stack), ca, keys, *pairs)


async def test_a_private_key_is_in_clear_nowhere_outside_the_submitter(cage: Cage) -> None:
    ordered = await cage.customer.register(DOMAIN, ACCOUNT, "video", "http://127.0.0.1:9")
    assert (await cage.customer.settled(ordered.command_id)).outcome is Outcome.APPLIED
    for step in STEPS:
        await step(cage)
    await _search_what_runs(cage)
    await cage.platform.stop()
    found = await asyncio.to_thread(_search_files, cage)
    assert not found, "\n".join(found)


# What happens to the keys


async def _upload(cage: Cage) -> None:
    await cage.live(cage.rsa)


async def _refusals(cage: Cage) -> None:
    """In the wrong field, with the wrong certificate, with something around it; by submission and
    by dry run."""
    rsa_key, ec_key = cage.keys["RSA"], cage.keys["ECDSA"]
    for chain, key, code in (
        (cage.rsa.chain, cage.ecdsa.key, "key.mismatch"),
        (cage.ecdsa.chain, cage.rsa.key, "key.mismatch"),
        (cage.rsa.chain + cage.rsa.key, cage.rsa.key, "certificate.contains_key"),
        (cage.ecdsa.key, cage.ecdsa.chain, "certificate.contains_key"),
        (cage.ecdsa.chain, cage.ecdsa.key + cage.rsa.key, ""),
        (cage.rsa.chain, cage.rsa.key.replace("PRIVATE KEY", "SECRET"), ""),
        (cage.rsa.chain, cage.rsa.key[: len(cage.rsa.key) // 2], ""),
        (cage.ecdsa.chain, canary.der(ec_key)["PKCS8"].hex(), ""),
        (cage.rsa.chain, "x" * 20_000 + cage.rsa.key, ""),
        ("x" * 70_000 + cage.rsa.key, cage.rsa.key, ""),
        (_base64(canary.der(rsa_key)["PKCS8"]), cage.rsa.key, ""),
    ):
        outcome, codes, _ = await cage.submit(chain, key)
        assert outcome is Outcome.REFUSED and codes and (not code or code in codes), (
            code,
            outcome,
            codes,
        )
        report = await cage.customer.check([DOMAIN], ACCOUNT, chain, key)
        assert not any(report.accepted.values()) and report.findings


async def _replace_under_load(cage: Cage) -> None:
    async with FleetHandshakes(
        cage.nodes, DOMAIN, verifying_context(Path(cage.platform.run["trust_roots"]))
    ) as watches:
        for pair in (cage.ecdsa, cage.rsa, cage.ecdsa):
            await cage.live(pair)
    failures = [failure for failure in watches.failures if "went back" not in failure]
    assert watches.handshakes and not failures, failures[:3]


async def _unloadable(cage: Cage) -> None:
    """A certificate with another's key: properly attested, sealed and signed, so that only the node
    can refuse it; and then put into nginx itself, past the agent's check, and asked for."""
    pair = CertificatePair(cage.ca.issue([UNLOADABLE], cage.keys["RSA"])[0], cage.ecdsa.key)
    edge_sync = await cage.login("edge_sync")
    told: list[NodeStatus] = []

    async def hear(message: object) -> None:
        told.append(parse(NodeStatus, message.data))  # type: ignore[attr-defined]

    await edge_sync.subscribe(catalogue.EDGE_STATUS, cb=hear)
    subject = s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(UNLOADABLE))
    bucket = edge_sync.jetstream(timeout=5)
    await bucket.publish(subject, _bundle(cage, pair))
    for node in NODES:
        await until(
            lambda node=node: any(
                one.node == node
                and any(proof.domain == UNLOADABLE and proof.fault for proof in one.proofs)
                for one in told
            ),
            f"{node} reports that it cannot load the pair",
            limit=20,
        )
    for place in cage.nodes:
        plane = DataPlane(cage.platform.data / "nodes" / place.node / "run")
        for key_type in ("rsa", "ecdsa"):
            pems = (pair.chain, pair.key, key_type)
            entry = NginxEntry(UNLOADABLE, 1, "https", (pems,))  # type: ignore[arg-type]
            assert await plane.put_many([entry]) == {}
            for _ in range(5):
                assert await is_refused(place, UNLOADABLE, unverified_context())
        await plane.remove_many([UNLOADABLE])
    # edge_sync keeps what it signed and config does not know: it is taken back as it came.
    await bucket.publish(subject, _bundle(cage, None))
    await cage.platform.wait_ready()


async def _dead_letters(cage: Cage) -> None:
    """A malformed submission and a malformed question, each with the sealed key in it."""
    identity = secrets.token_hex(8)
    key = PublicKey(Path(cage.platform.run["submission_key"]).read_text().strip())
    box = key.seal(cage.rsa.key.encode(), submission_info(ACCOUNT, identity))
    body = SubmitCertificate(
        domain=DOMAIN,
        account=ACCOUNT,
        submission_id=identity,
        pairs=[SubmittedPair(certificate=cage.rsa.chain, sealed_key=SealedKey(epoch=0, box=box))],
    ).encode()
    malformed = body.replace(b'{"domain"', b'{"surprise":1,"domain"', 1)
    for user, subject in (
        ("platform", catalogue.CMD_CERTIFICATE_SUBMIT),
        ("config", catalogue.JUDGE_SUBMISSION),
    ):
        js = (await cage.login(user)).jetstream(timeout=5)
        await js.publish(
            subject, malformed, headers={"ce-id": secrets.token_hex(8), "ce-source": "stranger"}
        )
    topology = (await cage.login("topology")).jetstream(timeout=5)

    async def buried() -> bool:
        return (await topology.stream_info(s.STREAM_DEAD)).state.messages >= 2

    await until(buried, "both are dead letters")


async def _in_clear(cage: Cage) -> None:
    """By mistake, where a sealed key or none at all belongs, from everybody who may send a command
    or usage."""
    box = PublicKey(Path(cage.platform.run["submission_key"]).read_text().strip())
    topology = (await cage.login("topology")).jetstream(timeout=5)
    before = (await topology.stream_info(s.STREAM_DEAD)).state.messages
    sent = 0
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
        js = (await cage.login(user)).jetstream(timeout=5)
        for subject in subjects:
            for key in cage.keys.values():
                for body in _told_in_clear(key):
                    headers = {
                        "ce-id": secrets.token_hex(8),
                        "ce-source": canary.pem(key)["PKCS8"].replace("\n", ""),
                    }
                    await js.publish(subject, body, headers=headers)
                    sent += 1

    async def buried() -> bool:
        return (await topology.stream_info(s.STREAM_DEAD)).state.messages >= before + sent

    await until(buried, "all are dead letters", limit=30)
    for pair in (cage.rsa, cage.ecdsa):
        identity = secrets.token_hex(8)
        sealed = box.seal(pair.key.encode(), submission_info(ACCOUNT, identity))
        order = SubmitCertificate(
            domain=DOMAIN,
            account=ACCOUNT,
            submission_id=identity,
            pairs=[
                SubmittedPair(
                    certificate=pair.chain + pair.key, sealed_key=SealedKey(epoch=0, box=sealed)
                )
            ],
        )
        js = (await cage.login("platform")).jetstream(timeout=5)
        await js.publish(
            catalogue.CMD_CERTIFICATE_SUBMIT,
            order.encode(),
            headers={"ce-id": identity, "ce-source": "stranger"},
        )
        settled = await cage.customer.settled(identity, limit=60)
        assert settled.outcome is Outcome.REFUSED and "certificate.contains_key" in settled.codes, (
            settled
        )


def _told_in_clear(key: canary.PrivateKey) -> list[bytes]:
    """Bodies that are no contract's, with the key as people paste it, or as programs escape it."""
    pem, der = canary.pem(key)["traditional"], canary.der(key)["PKCS8"]
    told = json.dumps({"account": ACCOUNT, "private_key": pem})
    escaped = "".join(f"\\u{ord(character):04x}" for character in pem)
    return [
        pem.encode(),
        told.encode(),
        json.dumps({"payload": told}).encode(),
        f'{{"key": "{escaped}"}}'.encode(),
        json.dumps({"certificate": _base64(der)}).encode(),
        json.dumps({pem: der.hex()}).encode(),
        _base64(pem.encode()).encode(),
    ]


async def _crashes(cage: Cage) -> None:
    """By SIGSEGV, as a bug would, and by SIGKILL: all that has a key in memory or a sealed one,
    while it is busy."""
    for number in (signal.SIGSEGV, signal.SIGKILL):
        for name in ("validator", "config", "edge_sync", f"{NODES[0]}-agent", f"{NODES[1]}-nginx"):
            again = cage.ca.issue([DOMAIN], cage.keys["RSA"])
            ordered = await cage.customer.submit(DOMAIN, ACCOUNT, *again)
            # Children first: the workers hold the key; the last is the process itself.
            for pid in reversed(cage.pids(name)):
                os.kill(pid, number)
            settled = await cage.customer.settled(ordered.command_id, limit=60)
            assert settled.outcome is Outcome.APPLIED, settled
            await until(lambda name=name: cage.platform.pid(name), f"{name} is started again")
    await cage.platform.wait_ready()
    await cage.live(cage.ecdsa)


async def _disable(cage: Cage) -> None:
    ordered = await cage.customer.disable(DOMAIN, ACCOUNT)
    settled = await cage.customer.settled(ordered.command_id)
    assert settled.outcome is Outcome.APPLIED
    await cage.customer.converged(DOMAIN, settled.revision or 0, limit=20)


Step = Callable[[Cage], Awaitable[None]]
STEPS: list[Step] = [
    _upload,
    _refusals,
    _replace_under_load,
    _unloadable,
    _dead_letters,
    _in_clear,
    _crashes,
    _disable,
]


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _bundle(cage: Cage, pair: CertificatePair | None) -> bytes:
    """As edge_sync would publish it, made with the platform's own keys; None: a tombstone."""
    fleet = FleetFile.read(Path(cage.platform.run["fleet_file"]))
    edge_sync = read_signer(cage.platform.data / "keys" / "edge_sync.ed25519", "edge_sync")
    bundle = Bundle(
        domain=UNLOADABLE,
        account=ACCOUNT,
        revision=1 if pair else 2,
        epoch=fleet.newest_epoch,
        settings=Settings(),
        kind=BundleKind.HTTPS if pair else BundleKind.REMOVED,
        origin=Origin(scheme="http", host="127.0.0.1", port=9) if pair else None,
        pairs=[_bundle_pair(cage, fleet, pair)] if pair else [],
    )
    return edge_sync.sign(Purpose.BUNDLE, bundle).encode()


def _bundle_pair(cage: Cage, fleet: FleetFile, pair: CertificatePair) -> BundlePair:
    validator = read_signer(cage.platform.data / "keys" / "validator.ed25519", "validator")
    epoch = SealingKey(fleet.epochs[fleet.newest_epoch]).public()
    pair_id = "unloadable-pair"
    attestation = Attestation(
        account=ACCOUNT,
        domains=[UNLOADABLE],
        pair_id=pair_id,
        leaf_fingerprint=pair.leaf,
        chain_hash=sha256(pair.chain.encode()).hexdigest(),
    )
    box = epoch.seal(pair.key.encode(), pair_info(ACCOUNT, pair_id, pair.leaf))
    return BundlePair(
        pair_id=pair_id,
        chain=pair.chain,
        sealed_key=SealedKey(epoch=fleet.newest_epoch, box=box),
        attestation=validator.sign(Purpose.ATTESTATION, attestation),
    )


# Where they must not be


async def _search_what_runs(cage: Cage) -> None:
    """Every row of every table, every message of every stream and bucket, every file of the
    nodes."""
    platform = cage.platform
    wanted = {name: canary.needles(key) for name, key in cage.keys.items()}
    folders = [platform.data / "nodes" / node for node in NODES]
    found = await search(wanted, platform.run["postgres"], await cage.login("searcher"), folders)
    assert not found, "\n".join(found)


def _search_files(cage: Cage) -> list[str]:
    """Every file below the data folder: logs, PostgreSQL's files and WAL, JetStream's blocks, what
    else there is."""
    data = cage.platform.data
    wanted = {name: canary.needles(key) for name, key in cage.keys.items()}
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
            found += [f"{place}: {name} {what}" for what in canary.found_in_file(needles, path)]
        if place.startswith("postgres/data/base/"):
            for name, key in cage.keys.items():
                found += [
                    f"{place}: {name} {what}" for what in canary.compressed_in_file(key, path)
                ]
    assert seen == known.keys(), f"the search does not see the files of {known.keys() - seen}"
    return found
