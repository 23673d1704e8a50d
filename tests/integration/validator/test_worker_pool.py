"""Real worker processes: their answers, and their end when one is stuck, killed or orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from services.validator.sandbox.pool import PoolLimits, ValidatorBusy, WorkerPool
from services.validator.sandbox.sealed_judge import WorkerSecrets
from shared.contracts.base import SealedKey
from shared.contracts.commands import EpochKey, SubmittedPair
from shared.contracts.findings import Code
from shared.contracts.judging import Attestation, CheckCertificate, JudgeContext, JudgeSubmission
from shared.crypto.sealing import PrivateKey, pair_info, submission_info
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import EdgetlsError
from tests.support import costly_submissions
from tests.support.costly_submissions import COSTLY_SUBMISSIONS
from tests.support.pki import NOW, Authority, Leaf, pkcs8, rsa_key
from tests.support.processor_time import processor_seconds
from tests.support.waiting import until

SUBMISSION, EPOCH, SIGNER = (
    PrivateKey.generate(),
    PrivateKey.generate(),
    Signer.generate("validator-1"),
)
SEALING = EpochKey(
    epoch=7, public_key=EPOCH.public().text, issued_at=datetime(2026, 1, 1, tzinfo=UTC)
)
SECRETS = WorkerSecrets(
    submission_keys=[SUBMISSION.text()], signer_id=SIGNER.key_id, signer_key=SIGNER.text()
)
ROOT = Authority.create()
ISSUING = ROOT.intermediate()
LEAF = ISSUING.issue(["www.example.com"])

pytestmark = pytest.mark.asyncio


def request(
    name: str = "sub-1",
    *,
    leaf: Leaf = LEAF,
    account: str = "acme",
    info: bytes | None = None,
    private: bool = True,
) -> JudgeSubmission:
    box = SUBMISSION.public().seal(leaf.key_pem.encode(), info or submission_info(account, name))
    return JudgeSubmission(
        submission_id=name,
        account=account,
        domains=["www.example.com"],
        pairs=[SubmittedPair(certificate=leaf.chain_pem, sealed_key=SealedKey(epoch=0, box=box))],
        context=JudgeContext(private_roots=[ROOT.pem] if private else None),
    )


MakeWorkers = Callable[..., Awaitable[WorkerPool]]


@pytest_asyncio.fixture
async def make_workers() -> AsyncIterator[MakeWorkers]:
    made: list[WorkerPool] = []

    async def make(module: str = "tests.support.failing_worker", **limits: float) -> WorkerPool:
        pool_limits = PoolLimits(**{"workers": 1, **limits})  # type: ignore[arg-type]
        workers = WorkerPool(SECRETS, pool_limits, module)
        made.append(workers)
        await workers.start()
        return workers

    yield make
    for workers in made:
        await workers.close()


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def all_sealed(leaf: Leaf, certificate: str, *, info: bytes | None = None) -> JudgeSubmission:
    """Return a request as the client sends it: the certificate field is sealed too."""
    asked = request(leaf=leaf)
    info = info or submission_info(asked.account, asked.submission_id)
    box = SealedKey(
        epoch=0, box=SUBMISSION.public().seal(certificate.encode("utf-8", "surrogateescape"), info)
    )
    pair = SubmittedPair(sealed_certificate=box, sealed_key=asked.pairs[0].sealed_key)
    return asked.model_copy(update={"pairs": [pair]})


async def test_a_sealed_certificate_is_judged_like_one_in_clear(make_workers: MakeWorkers) -> None:
    workers = await make_workers()
    verdict = await workers.judge_sealed(all_sealed(LEAF, LEAF.chain_pem), at=NOW, sealing=SEALING)
    assert verdict.accepted == {"www.example.com": True}
    assert verdict.pairs[0].chain == LEAF.chain_pem


async def test_a_sealed_certificate_with_a_key_or_with_bytes_that_are_no_text_is_refused(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers()
    for certificate, code in (
        (LEAF.chain_pem + LEAF.key_pem, Code.CERTIFICATE_CONTAINS_KEY),
        ("\udcff\udcfe" * 40, Code.CERTIFICATE_MISSING),
    ):
        verdict = await workers.judge_sealed(all_sealed(LEAF, certificate), at=NOW, sealing=SEALING)
        assert verdict.accepted == {"www.example.com": False} and verdict.pairs == []
        assert code in {one.code for one in verdict.findings}


async def test_a_certificate_sealed_for_another_submission_is_not_opened(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers()
    asked = all_sealed(LEAF, LEAF.chain_pem, info=submission_info("acme", "another"))
    verdict = await workers.judge_sealed(asked, at=NOW, sealing=SEALING)
    assert next((one.code, one.field) for one in verdict.findings) == (
        Code.KEY_UNOPENABLE,
        "certificate",
    )
    assert verdict.accepted == {"www.example.com": False}


async def test_a_dry_run_normalises_domains_and_reports_names_that_would_be_lost(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers()
    asked = request().model_dump(include={"submission_id", "account", "pairs"})
    question = CheckCertificate(
        **asked,
        domains=["WWW.Example.com", "www.example.com", "a..b"],
        private_roots=[ROOT.pem],
        live_names=["old.example.com"],
    )
    report = await workers.judge_sealed(question, at=NOW)
    assert report.accepted == {"www.example.com": True, "a..b": False}
    assert [(f.code, f.domain) for f in report.findings] == [
        (Code.DOMAIN_INVALID, "a..b"),
        (Code.CERTIFICATE_NAMES_LOST, None),
    ]


async def test_an_accepted_pair_comes_back_sealed_to_the_epoch_and_attested(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    verdict = await workers.judge_sealed(request(), at=NOW, sealing=SEALING)
    assert verdict.accepted == {"www.example.com": True}
    (pair,) = verdict.pairs
    assert (pair.chain, pair.leaf_fingerprint, pair.sealed_key.epoch) == (
        LEAF.chain_pem,
        LEAF.fingerprint,
        7,
    )
    opened = EPOCH.open(pair.sealed_key.box, pair_info("acme", pair.pair_id, pair.leaf_fingerprint))
    assert opened.decode() == pkcs8(LEAF.key)
    verifier = Verifier([(SIGNER.key_id, SIGNER.public_text())])
    attested = verifier.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    assert (attested.pair_id, attested.domains, attested.account) == (
        pair.pair_id,
        ["www.example.com"],
        "acme",
    )


async def test_a_redelivery_gets_the_same_pair_id(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    first, second = [
        await workers.judge_sealed(request(), at=NOW, sealing=SEALING) for _ in range(2)
    ]
    assert first.pairs[0].pair_id == second.pairs[0].pair_id


async def test_rsa_and_ecdsa_pairs_are_judged_together(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    one, two = request(), request(leaf=ISSUING.issue(["www.example.com"], key=rsa_key()))
    both = one.model_copy(update={"pairs": [*one.pairs, *two.pairs]})
    verdict = await workers.judge_sealed(both, at=NOW, sealing=SEALING)
    assert [pair.key_type for pair in verdict.pairs] == ["ecdsa", "rsa"]
    assert len({pair.pair_id for pair in verdict.pairs}) == 2


async def test_a_key_sealed_for_another_submission_is_refused(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    verdict = await workers.judge_sealed(
        request(info=submission_info("acme", "sub-2")), at=NOW, sealing=SEALING
    )
    assert [f.code for f in verdict.findings] == [Code.KEY_UNOPENABLE]
    assert verdict.pairs == []


async def test_public_trust_does_not_include_a_private_root(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    verdict = await workers.judge_sealed(request(private=False), at=NOW, sealing=SEALING)
    assert [f.code for f in verdict.findings] == [Code.CHAIN_UNTRUSTED]


async def test_a_dry_run_reports_and_seals_nothing(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    asked = request()
    report = await workers.judge_sealed(
        CheckCertificate(
            submission_id="sub-1", account="acme", domains=asked.domains, pairs=asked.pairs
        ),
        at=NOW,
    )
    assert report.accepted == {"www.example.com": False}
    assert [f.code for f in report.findings] == [Code.CHAIN_UNTRUSTED]


async def test_a_dry_run_accepts_a_pair_that_the_accounts_own_roots_trust(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    asked = request()
    question = CheckCertificate(
        submission_id="sub-1",
        account="acme",
        domains=asked.domains,
        pairs=asked.pairs,
        private_roots=[ROOT.pem],
    )
    report = await workers.judge_sealed(question, at=NOW)
    assert (report.accepted, report.findings) == ({"www.example.com": True}, [])


async def test_a_san_that_is_no_dns_name_is_left_out_of_the_verdict(
    make_workers: MakeWorkers,
) -> None:
    """config would send it back as a live name, and no contract takes it."""
    workers = await make_workers("services.validator.sandbox.worker_main")
    odd = ISSUING.issue(["www.example.com", "x" * 400 + ".example.com"])
    verdict = await workers.judge_sealed(request(leaf=odd), at=NOW, sealing=SEALING)
    assert verdict.pairs[0].sans == ["www.example.com"]


async def test_hostile_pairs_cost_no_worker_and_less_than_a_second_of_a_processor_each(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main", workers=2)
    pids = workers.worker_pids
    most = 0.0
    for number, make in enumerate(COSTLY_SUBMISSIONS.values()):
        certificate, key = make()
        box = SUBMISSION.public().seal(key.encode(), submission_info("foe", f"foe-{number}"))
        pair = SubmittedPair(
            certificate=certificate[:200_000], sealed_key=SealedKey(epoch=0, box=box)
        )
        asked = JudgeSubmission(
            submission_id=f"foe-{number}",
            account="foe",
            domains=["www.example.com"],
            pairs=[pair],
            context=JudgeContext(private_roots=[costly_submissions.ROOT.pem]),
        )
        before = sum(map(processor_seconds, pids))
        verdict = await workers.judge_sealed(asked, at=NOW, sealing=SEALING)
        most = max(most, sum(map(processor_seconds, pids)) - before)
        assert Code.CERTIFICATE_UNJUDGEABLE not in [f.code for f in verdict.findings]
    assert (workers.worker_pids, workers.lost_workers) == (pids, 0)
    assert most < 1.0


@pytest.mark.parametrize("name", ["stall-1", "sleep-1", "die-1"])
async def test_a_submission_that_costs_three_workers_is_refused_and_others_flow(
    make_workers: MakeWorkers, name: str
) -> None:
    workers = await make_workers(workers=2, job_cpu_seconds=0.1, job_wall_seconds=0.4)
    bad = asyncio.ensure_future(workers.judge_sealed(request(name), at=NOW, sealing=SEALING))
    good = [
        workers.judge_sealed(request(f"sub-{n}", account="other"), at=NOW, sealing=SEALING)
        for n in range(20)
    ]
    assert all(verdict.accepted["www.example.com"] for verdict in await asyncio.gather(*good))
    verdict = await bad
    assert [f.code for f in verdict.findings] == [Code.CERTIFICATE_UNJUDGEABLE]
    assert verdict.accepted == {"www.example.com": False}
    assert workers.lost_workers == 3
    await until(lambda: len(workers.worker_pids) == 2, "both workers run")


async def test_a_worker_killed_during_a_job_is_replaced_and_the_submission_judged(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers(job_wall_seconds=10)
    (pid,) = workers.worker_pids
    os.kill(pid, signal.SIGSTOP)
    judging = asyncio.ensure_future(workers.judge_sealed(request(), at=NOW, sealing=SEALING))
    await until(lambda: workers.running_jobs == 1, "it is at work")
    os.kill(pid, signal.SIGKILL)
    assert (await judging).accepted == {"www.example.com": True}
    assert workers.worker_pids != [pid]


async def test_an_idle_worker_that_dies_is_replaced_without_a_submission(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers()
    (pid,) = workers.worker_pids
    os.kill(pid, signal.SIGKILL)
    await until(
        lambda: len(workers.worker_pids) == 1 and workers.worker_pids != [pid], "a successor runs"
    )
    assert (await workers.judge_sealed(request(), at=NOW, sealing=SEALING)).pairs


async def test_a_worker_is_renewed_after_its_jobs_by_a_successor(make_workers: MakeWorkers) -> None:
    workers = await make_workers(jobs_per_worker=3)
    (pid,) = workers.worker_pids
    for n in range(3):
        await workers.judge_sealed(request(f"sub-{n}"), at=NOW, sealing=SEALING)
    assert workers.worker_pids == [pid]
    await until(
        lambda: len(workers.worker_pids) == 1 and workers.worker_pids != [pid], "a successor runs"
    )
    await until(lambda: gone(pid), "the first has ended")
    assert (
        workers.lost_workers,
        (await workers.judge_sealed(request(), at=NOW, sealing=SEALING)).accepted,
    ) == (0, {"www.example.com": True})


async def test_a_full_queue_refuses_new_jobs_until_it_empties(make_workers: MakeWorkers) -> None:
    workers = await make_workers(queue_size=1, job_wall_seconds=10)
    (pid,) = workers.worker_pids
    os.kill(pid, signal.SIGSTOP)
    taken = asyncio.ensure_future(workers.judge_sealed(request("sub-1"), at=NOW, sealing=SEALING))
    await until(lambda: workers.running_jobs == 1, "it is at work")
    queued = asyncio.ensure_future(workers.judge_sealed(request("sub-2"), at=NOW, sealing=SEALING))
    await until(lambda: workers.waiting_jobs == 1, "the next one waits")
    with pytest.raises(ValidatorBusy):
        await workers.judge_sealed(request("sub-3"), at=NOW, sealing=SEALING)
    os.kill(pid, signal.SIGCONT)
    assert all(verdict.pairs for verdict in await asyncio.gather(taken, queued))


async def test_one_account_has_at_most_two_workers(make_workers: MakeWorkers) -> None:
    workers = await make_workers(workers=3, job_cpu_seconds=0.5, job_wall_seconds=2, attempts=1)
    flood = [
        asyncio.ensure_future(workers.judge_sealed(request(f"sleep-{n}"), at=NOW, sealing=SEALING))
        for n in range(4)
    ]
    await until(lambda: workers.running_jobs == 2, "the account has two workers")
    verdict = await workers.judge_sealed(request("sub-1", account="other"), at=NOW, sealing=SEALING)
    assert verdict.pairs
    assert (workers.running_jobs, workers.waiting_jobs) == (2, 2)
    await asyncio.gather(*flood)


async def test_bulk_of_two_accounts_leaves_a_worker_for_an_account_with_one_pair(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers(workers=3, job_cpu_seconds=0.5, job_wall_seconds=2, attempts=1)
    floods = [
        asyncio.ensure_future(
            workers.judge_sealed(request(f"sleep-{n}", account=account), at=NOW, sealing=SEALING)
        )
        for account in ("foe-1", "foe-2")
        for n in range(4)
    ]
    await floods[0]  # it was alone here, so the reserved worker judged it
    await until(
        lambda: workers.running_jobs == 2 and len(workers.worker_pids) == 3,
        "two of three are at work",
    )
    assert workers.waiting_jobs > 0
    verdict = await workers.judge_sealed(request("sub-1", account="other"), at=NOW, sealing=SEALING)
    assert verdict.pairs
    assert workers.waiting_jobs > 0
    await asyncio.gather(*floods)


async def test_workers_that_take_bulk_have_a_lower_priority(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main", workers=3)
    assert sorted(os.getpriority(os.PRIO_PROCESS, pid) for pid in workers.worker_pids) == [
        0,
        10,
        10,
    ]
    alone = await make_workers("services.validator.sandbox.worker_main", workers=2)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in alone.worker_pids} == {0}


async def test_a_worker_dumps_no_core_and_has_a_memory_limit(make_workers: MakeWorkers) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    limits = Path(f"/proc/{workers.worker_pids[0]}/limits").read_text()
    line = {row[:25].strip(): row[25:].split() for row in limits.splitlines()}
    assert line["Max core file size"][:2] == ["0", "0"]
    assert line["Max address space"][0] == str(PoolLimits().memory_bytes)


async def test_the_kernel_ends_a_worker_that_spins_without_a_watching_parent(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers(job_cpu_seconds=60, job_wall_seconds=60, attempts=1)
    began = time.monotonic()
    verdict = await workers.judge_sealed(request("stall-1"), at=NOW, sealing=SEALING)
    assert [f.code for f in verdict.findings] == [Code.CERTIFICATE_UNJUDGEABLE]
    assert time.monotonic() - began < 30
    await until(lambda: len(workers.worker_pids) == 1, "a worker in its place")
    for number in range(3):
        assert (await workers.judge_sealed(request(f"sub-{number}"), at=NOW, sealing=SEALING)).pairs


async def test_no_secret_is_in_a_workers_arguments_or_environment(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers("services.validator.sandbox.worker_main")
    process = Path(f"/proc/{workers.worker_pids[0]}")
    open_to_us = [process / "cmdline"]
    if may_trace():
        open_to_us.append(process / "environ")
    else:  # a worker is not dumpable, so even its own user cannot read its environment
        with pytest.raises(PermissionError):
            (process / "environ").read_bytes()
    for file in open_to_us:
        text = file.read_bytes()
        assert SUBMISSION.text().encode() not in text
        assert SIGNER.text().encode() not in text


def may_trace() -> bool:
    """Check for the right to look into every process: root has it, but not in every container."""
    status = Path("/proc/self/status").read_text()
    effective = int(
        next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16
    )
    return bool(effective >> 19 & 1)


async def test_jobs_that_wait_when_the_pool_closes_are_left_undecided(
    make_workers: MakeWorkers,
) -> None:
    workers = await make_workers(job_wall_seconds=10)
    os.kill(workers.worker_pids[0], signal.SIGSTOP)
    names = ("sub-1", "sub-2")
    asked = [
        asyncio.ensure_future(workers.judge_sealed(request(name), at=NOW, sealing=SEALING))
        for name in names
    ]
    await until(
        lambda: (workers.running_jobs, workers.waiting_jobs) == (1, 1),
        "one is at work and one waits",
    )
    await workers.close()
    assert [type(outcome) for outcome in await asyncio.gather(*asked, return_exceptions=True)] == [
        ValidatorBusy,
        ValidatorBusy,
    ]
    with pytest.raises(ValidatorBusy):
        await workers.judge_sealed(request(), at=NOW, sealing=SEALING)


async def test_a_worker_that_does_not_start_is_an_error_at_once(make_workers: MakeWorkers) -> None:
    with pytest.raises(EdgetlsError, match="does not start"):
        await make_workers("tests.support.no_such_worker")


PARENT = """
import asyncio, sys
from services.validator.sandbox.sealed_judge import WorkerSecrets
from services.validator.sandbox.pool import PoolLimits, WorkerPool
async def main():
    workers = WorkerPool(WorkerSecrets.model_validate_json(sys.argv[1]), PoolLimits(workers=2))
    await workers.start()
    print(*workers.worker_pids, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_workers_die_with_a_parent_that_is_killed() -> None:
    secrets = SECRETS.model_dump_json()
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, secrets], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in (await asyncio.to_thread(parent.stdout.readline)).split()]
        assert len(pids) == 2
        parent.kill()
    await until(lambda: all(gone(pid) for pid in pids), "the workers have ended")
