"""Nothing stalls the validator: hostile pairs are answered within a second, and mutated ones
without an exception."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.validator.checks.judge import PairTexts, judge_pairs
from services.validator.sandbox.forked_child import ChildLimits, ChildLost, ForkedChild
from services.validator.x509.trust_roots import TrustRoots
from tests.support.costly_submissions import (
    COSTLY_SUBMISSIONS,
    DOMAIN,
    ROOT,
    ROOT_KEY,
    cross_signed,
)
from tests.support.mutated_requests import mutate_requests
from tests.support.pki import NOW, Authority, distinguished, ec_key, sign
from tests.support.processor_time import processor_seconds
from tests.support.waiting import LIMIT_SECONDS

CHECK = [sys.executable, "-m", "services.validator", "check", "--jsonl"]
ROOTS = TrustRoots.from_pem(ROOT.pem)


@pytest.mark.parametrize("kind", COSTLY_SUBMISSIONS)
def test_a_hostile_submission_is_answered_within_a_second(kind: str) -> None:
    certificate, key = COSTLY_SUBMISSIONS[kind]()
    began = time.process_time()
    judged = judge_pairs([PairTexts(certificate, key)], [DOMAIN], at=NOW, roots=ROOTS)
    assert time.process_time() - began < 1.0
    assert bool(judged.pairs) == (kind == "a thousand names")


def test_a_thousand_roots_of_one_name_cost_no_more_than_a_second() -> None:
    fakes = [Authority.create("Hostile Root", key=ec_key()) for _ in range(1000)]
    roots = TrustRoots.from_pem("".join(fake.pem for fake in fakes))
    issuing = ROOT.intermediate("Issuing")
    made = issuing.issue([DOMAIN])
    began = time.process_time()
    judged = judge_pairs([PairTexts(made.chain_pem, made.key_pem)], [DOMAIN], at=NOW, roots=roots)
    assert time.process_time() - began < 1.0
    assert judged.pairs == ()


def test_many_cross_signed_cas_that_lead_to_the_root_are_accepted() -> None:
    """There are many paths to the root, and a sound one is found."""
    keys = [ec_key() for _ in range(3)]
    own = [
        sign(distinguished(f"Way {n}"), key.public_key(), ROOT.certificate, ROOT_KEY, ca=True)
        for n, key in enumerate(keys)
    ]
    across = [
        sign(own[a].subject, keys[a].public_key(), own[b], keys[b], ca=True)
        for a in range(3)
        for b in range(3)
        if a != b
    ]
    made = Authority(own[0], keys[0], (own[0], own[1], own[2], *across)).issue([DOMAIN])
    judged = judge_pairs([PairTexts(made.chain_pem, made.key_pem)], [DOMAIN], at=NOW, roots=ROOTS)
    assert judged.pairs, judged.findings


def lines() -> bytes:
    requests = []
    for number, make in enumerate([*COSTLY_SUBMISSIONS.values(), cross_signed]):
        certificate, key = make()
        requests.append(
            {
                "id": number,
                "certificate": certificate,
                "private_key": key,
                "domain": DOMAIN,
                "at": NOW.isoformat(),
                "roots": ROOT.pem,
            }
        )
    many_roots = {**requests[0], "id": "roots", "roots": ROOT.pem * 5000}
    return b"".join(json.dumps(request).encode() + b"\n" for request in [*requests, many_roots])


def test_the_offline_check_answers_every_hostile_line_in_less_than_a_second_of_a_processor() -> (
    None
):
    text = lines()
    with subprocess.Popen(CHECK, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        most = 0.0
        for number, line in enumerate(text.splitlines(keepends=True)):
            before = processor_seconds(process.pid)
            process.stdin.write(line)
            process.stdin.flush()
            verdict = json.loads(process.stdout.readline())
            assert verdict["verdict"] in ("accepted", "refused")
            assert "certificate.unjudgeable" not in [f["code"] for f in verdict["findings"]]
            if number:  # the first waits for the program to start
                most = max(most, processor_seconds(process.pid) - before)
        process.stdin.close()
        assert process.wait(timeout=LIMIT_SECONDS) == 0
    assert most < 1.0


def test_two_thousand_mutated_pairs_get_two_thousand_verdicts_and_none_is_unjudgeable() -> None:
    done = subprocess.run(
        CHECK, input=b"\n".join(mutate_requests(2000)), capture_output=True, timeout=120, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == list(range(2000))
    assert "certificate.unjudgeable" not in {
        f["code"] for answer in answers for f in answer["findings"]
    }
    assert {answer["verdict"] for answer in answers} == {"accepted", "refused"}
    assert len({f["code"] for answer in answers for f in answer["findings"]}) > 20
    assert done.stderr == b""


def spin(_: bytes) -> bytes:
    while True:
        pass


def die(_: bytes) -> bytes:
    raise SystemExit


def gorge(_: bytes) -> bytes:
    return b"x" * (4 << 30)


@pytest.mark.parametrize("fault", [spin, die, gorge])
def test_a_line_that_costs_its_child_is_reported_as_lost_and_the_next_is_answered(
    fault: Callable[[bytes], bytes],
) -> None:
    def answer(request: bytes) -> bytes:
        return fault(request) if request == b"bad" else request

    child = ForkedChild(answer, ChildLimits(cpu_seconds=0.2, wall_seconds=5))
    try:
        assert child.ask(b"good") == b"good"
        with pytest.raises(ChildLost):
            child.ask(b"bad")
        assert child.ask(b"good again") == b"good again"
        with pytest.raises(ChildLost):
            child.ask(b"bad")
    finally:
        child.close()


def test_an_answer_longer_than_a_pipe_holds_arrives_whole() -> None:
    child = ForkedChild(lambda request: request * 300_000)
    try:
        assert child.ask(b"x") == b"x" * 300_000
        assert child.ask(b"y") == b"y" * 300_000
    finally:
        child.close()


def test_a_child_dumps_no_core_and_is_bounded_in_memory() -> None:
    def limits(_: bytes) -> bytes:
        return Path("/proc/self/limits").read_bytes()

    child = ForkedChild(limits)
    try:
        rows = {row[:25].strip(): row[25:].split() for row in child.ask(b"").decode().splitlines()}
    finally:
        child.close()
    assert rows["Max core file size"][:2] == ["0", "0"]
    assert rows["Max address space"][0] == str(ChildLimits().memory_bytes)
    assert int(rows["Max cpu time"][0]) < 60
