"""How fast a pair is judged in full, and whether hostile pairs delay the others.

Verdicts: texts in, every rule with chain and trust in Mozilla's roots and one more, canonical PEM
out; one process, so per core. Beside them, in the same run: the plain way (``load_pem_private_key``
as it comes, then compare public keys), and the floor that no judge can pass: certificates and key
parsed, the leaf loaded by OpenSSL (rule D13), a signature made and verified, one path validated by
the library. Every verdict gets a leaf that was never seen before, as uploads do. Fairness: P-256
pairs through the pool of worker processes, sealed, from eight accounts, while another account sends
RSA-16384 and other hostile pairs at 200/s; beside it the same without them.
"""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import json
import random
import ssl
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from bench.report import Result, main
from services.validator import offline
from services.validator.checks.judge import PairTexts, judge_pairs
from services.validator.mozilla_roots import load_mozilla_roots
from services.validator.sandbox.pool import PoolLimits, ValidatorBusy, WorkerPool
from services.validator.sandbox.sealed_judge import WorkerSecrets
from services.validator.x509.paths import CA_POLICY, LEAF_POLICY
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.base import SealedKey
from shared.contracts.commands import EpochKey, SubmittedPair
from shared.contracts.judging import JudgeContext, JudgeSubmission
from shared.crypto.sealing import PrivateKey, submission_info
from shared.crypto.signing import Signer
from tests.support import costly_submissions
from tests.support.mutated_requests import mutate_requests
from tests.support.pki import NOW, Authority, Leaf, ec_key

DOMAIN = "www.example.com"
LEAVES = 8
LEAVES_A_KEY = 6
LEAVES_A_CONTEXT = 20
GOALS = {"RSA-2048": 20.0, "RSA-4096": 40.0, "P-256": None}
FLOOR_GOAL = 0.5
HOSTILE_PER_SECOND, FRIENDLY_PER_SECOND = 200, 40
SLOWER_AT_MOST = 3.0


async def measure(quick: bool) -> list[Result]:
    root = Authority.create("Bench Root")
    roots = load_mozilla_roots(root.pem)
    gc.collect()
    gc.freeze()  # as a worker does
    results: list[Result] = []
    for name, goal in GOALS.items():
        results += _speed(root, roots, name, goal, quick)
    results.append(await _fairness(quick))
    results.append(_mutations(1_000 if quick else 10_000))
    return results


def _speed(
    root: Authority, roots: TrustRoots, name: str, goal: float | None, quick: bool
) -> list[Result]:
    issuing = root.intermediate("Bench Issuing CA")
    keys = _keys(name)
    store = Store([root.certificate])
    numbers = itertools.count()

    def fresh_leaves() -> list[Leaf]:
        return [
            issuing.issue([DOMAIN], key=key, common_name=f"{next(numbers)}.example.com")
            for key in keys
            for _ in range(LEAVES_A_KEY)
        ]

    def full(leaf: Leaf) -> None:
        assert judge_pairs(
            [PairTexts(leaf.chain_pem, leaf.key_pem)], [DOMAIN], at=NOW, roots=roots
        ).pairs

    openssl = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loaded = itertools.count(1)

    def least(leaf: Leaf) -> None:
        nonlocal openssl
        # A context that holds many certificates takes longer for one more.
        if next(loaded) % LEAVES_A_CONTEXT == 0:
            openssl = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _least(leaf, store, openssl)

    rounds = 6 if quick else 20
    few = fresh_leaves()[::LEAVES_A_KEY]
    plain = 1 / min(_seconds(few, _plainly) for _ in range(3))
    # In turns, since other programs may share the machine.
    pairs = [
        (_seconds(fresh_leaves(), full), _seconds(fresh_leaves(), least)) for _ in range(rounds)
    ]
    verdicts, floor = 1 / min(one for one, _ in pairs), 1 / min(other for _, other in pairs)
    return [
        Result.of(
            "validator",
            f"full verdicts per core, {name}, beside the plain way",
            verdicts,
            "verdicts/s",
            plain,
            at_least=None if goal is None else goal * plain,
        ),
        Result.of(
            "validator",
            f"full verdicts per core, {name}, beside proof and path alone",
            verdicts,
            "verdicts/s",
            floor,
            at_least=FLOOR_GOAL * floor,
        ),
    ]


def _keys(name: str) -> list[object]:
    if name == "P-256":
        return [ec_key() for _ in range(LEAVES)]
    return [
        rsa.generate_private_key(65537, int(name[-4:]))
        for _ in range(LEAVES if name == "RSA-2048" else 3)
    ]


def _seconds(leaves: Sequence[Leaf], way: Callable[[Leaf], None]) -> float:
    """Return the processor seconds of one call. Take the best of several rounds."""
    began = time.process_time()
    for leaf in leaves:
        way(leaf)
    return (time.process_time() - began) / len(leaves)


def _plainly(leaf: Leaf) -> None:
    """Check a pair the plain way: the library loads the key, and the public keys are compared."""
    key = serialization.load_pem_private_key(leaf.key_pem.encode(), None)
    certificate = x509.load_pem_x509_certificates(leaf.chain_pem.encode())[0]
    assert _public(key.public_key()) == _public(certificate.public_key())


def _public(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))  # type: ignore[attr-defined]


def _least(leaf: Leaf, store: Store, openssl: ssl.SSLContext) -> None:
    """Do the signature proof and the path validation, and parse what they need."""
    certificate, *issuers = x509.load_pem_x509_certificates(leaf.chain_pem.encode())
    openssl.load_verify_locations(cadata=certificate.public_bytes(serialization.Encoding.DER))
    key = serialization.load_pem_private_key(
        leaf.key_pem.encode(), None, unsafe_skip_rsa_key_validation=True
    )
    public, challenge = certificate.public_key(), random.randbytes(32)
    if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
        signed = key.sign(challenge, padding.PKCS1v15(), hashes.SHA256())
        public.verify(signed, challenge, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(
        public, ec.EllipticCurvePublicKey
    ):
        public.verify(
            key.sign(challenge, ec.ECDSA(hashes.SHA256())), challenge, ec.ECDSA(hashes.SHA256())
        )
    builder = PolicyBuilder().store(store).time(NOW).max_chain_depth(10)
    builder.extension_policies(
        ca_policy=CA_POLICY, ee_policy=LEAF_POLICY
    ).build_client_verifier().verify(certificate, issuers)


# Fairness


async def _fairness(quick: bool) -> Result:
    """Measure the p99 of friendly verdicts, in wall milliseconds from request to answer."""
    seconds = 5 if quick else 20
    submission, signer = PrivateKey.generate(), Signer.generate("bench")
    secrets = WorkerSecrets(
        submission_keys=[submission.text()], signer_id=signer.key_id, signer_key=signer.text()
    )
    epoch = EpochKey(
        epoch=1, public_key=PrivateKey.generate().public().text, issued_at=datetime.now(UTC)
    )
    crowd = _Crowd(submission, epoch)
    workers = WorkerPool(secrets, PoolLimits())
    await workers.start()
    try:
        await crowd.friends(workers, 1)
        quiet, beside = [], []
        for _ in range(4):  # in turns, since other programs may share the machine
            quiet += await crowd.friends(workers, seconds / 4)
            flood = asyncio.create_task(crowd.foes(workers))
            await asyncio.sleep(0.5)
            beside += await crowd.friends(workers, seconds / 4)
            flood.cancel()
            while workers.waiting_jobs or workers.running_jobs:
                await asyncio.sleep(0.01)
    finally:
        await workers.close()
    sys.stderr.write(
        f"P-256: median {statistics.median(quiet):.1f} ms quiet, "
        f"{statistics.median(beside):.1f} ms beside"
        f" {crowd.answered} hostile answered and {crowd.busy} put off; workers lost: "
        f"{workers.lost_workers}\n"
    )
    return Result.of(
        "validator",
        "p99 of P-256 verdicts beside 200 hostile pairs/s",
        _p99(beside),
        "ms",
        _p99(quiet),
        at_most=SLOWER_AT_MOST * _p99(quiet),
    )


def _p99(found: Sequence[float]) -> float:
    return statistics.quantiles(found, n=100)[98]


class _Crowd:
    def __init__(self, submission: PrivateKey, epoch: EpochKey) -> None:
        self._public, self._epoch = submission.public(), epoch
        authority = costly_submissions.ROOT.intermediate("Friendly CA")
        made = [authority.issue([DOMAIN]) for _ in range(16)]
        self._friendly = [
            self._sealed(f"friend-{n % 8}", f"sub-{n}", leaf.chain_pem, leaf.key_pem)
            for n, leaf in enumerate(made)
        ]
        self._foes = [
            self._sealed("foe", f"foe-{n}", *make())
            for n, make in enumerate(costly_submissions.COSTLY_SUBMISSIONS.values())
        ]
        self.answered = self.busy = 0

    async def friends(self, workers: WorkerPool, seconds: float) -> list[float]:
        """Send friendly pairs at a steady pace, without waiting for answers."""
        found: list[float] = []

        async def one(number: int) -> None:
            began = time.perf_counter()
            verdict = await workers.judge_sealed(
                self._friendly[number % 16], at=NOW, sealing=self._epoch
            )
            found.append((time.perf_counter() - began) * 1000)
            assert verdict.pairs

        await _paced(one, FRIENDLY_PER_SECOND, int(seconds * FRIENDLY_PER_SECOND))
        return found

    async def foes(self, workers: WorkerPool) -> None:
        async def one(number: int) -> None:
            try:
                await workers.judge_sealed(
                    self._foes[number % len(self._foes)], at=NOW, sealing=self._epoch
                )
                self.answered += 1
            except ValidatorBusy:
                self.busy += 1

        await _paced(one, HOSTILE_PER_SECOND, 1_000_000)

    def _sealed(self, account: str, name: str, certificate: str, key: str) -> JudgeSubmission:
        box = self._public.seal(key.encode(), submission_info(account, name))
        return JudgeSubmission(
            submission_id=name,
            account=account,
            domains=[DOMAIN],
            pairs=[
                SubmittedPair(
                    certificate=certificate[:200_000], sealed_key=SealedKey(epoch=0, box=box)
                )
            ],
            context=JudgeContext(private_roots=[costly_submissions.ROOT.pem]),
        )


async def _paced(one: Callable[[int], Awaitable[object]], per_second: int, count: int) -> None:
    began, tasks = time.perf_counter(), set()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        task = asyncio.ensure_future(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


# Mutations


def _mutations(count: int) -> Result:
    """Judge mutated lines with the offline check; none may be unjudgeable."""
    lines, sink = b"\n".join(mutate_requests(count)), io.StringIO()
    began = time.perf_counter()
    offline.run(io.BytesIO(lines), sink, lambda: NOW)
    sys.stderr.write(f"offline: {count / (time.perf_counter() - began):,.0f} mutated pairs/s\n")
    codes = [
        {f["code"] for f in json.loads(line)["findings"]} for line in sink.getvalue().splitlines()
    ]
    judged = sum("certificate.unjudgeable" not in found for found in codes)
    return Result.of(
        "validator",
        "verdicts on mutated pairs, one a line, none unjudgeable",
        judged,
        "verdicts",
        count,
        at_least=count,
    )


if __name__ == "__main__":
    main(__doc__, measure)
