"""A disk that takes nothing more ends neither the agent nor a promise: what was closed or replaced
never comes back."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from deploy.embedded.ports import HOST, Ports
from shared import subjects as s
from shared.contracts.edge import BundleKind, Proof
from tests.integration.edge_agent.conftest import Stage
from tests.integration.edge_agent.rig import NODE
from tests.integration.edge_agent.test_usage import counted, visit
from tests.support.waiting import until


def allow(stage: Stage, size: int) -> None:
    """How large a file may be that the agent writes: it fails beyond, as it would on a full
    disk."""
    pid = stage.node.running["agent"].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


NOTHING, NO_BUNDLE, ALL = 1, 2500, resource.RLIM_INFINITY


@pytest.fixture
async def stage(make_stage: Callable[..., Awaitable[Stage]]) -> AsyncIterator[Stage]:
    """The agent's log is on that disk too: it says nothing."""
    made = await make_stage(LOG_LEVEL="critical")
    made.node.environment["EDGETLS_HEALTH_PORT"] = str(
        Ports(made.node.base / "ports.json").pick("health")
    )
    made.node.start()
    for revision, domain in enumerate(
        ("closed.test", "removed.test", "replaced.test", "kept.test"), 1
    ):
        await made.node.serves(domain, await made.https(domain, revision))
    await made.control.agrees(NODE)
    yield made
    assert made.node.running["agent"].poll() is None, "the agent lives"


def faulty(stage: Stage, domain: str) -> list[Proof]:
    return [
        p
        for p in stage.control.proofs()
        if p.domain == domain and p.fault and "cannot be written" in p.fault
    ]


def missing(stage: Stage) -> dict[str, str]:
    """What the node says is wrong with it."""
    try:
        with urlopen(
            f"http://{HOST}:{stage.node.environment['EDGETLS_HEALTH_PORT']}/readyz"
        ) as answer:
            body = answer.read()
    except HTTPError as error:
        body = error.read()
    found: dict[str, str] = json.loads(body)["missing"]
    return found


async def test_what_was_closed_or_replaced_on_a_full_disk_stays_so_after_a_crash(
    stage: Stage,
) -> None:
    kept = await stage.node.served("kept.test")
    allow(stage, NO_BUNDLE)
    replaced = await stage.https("replaced.test", 5)
    assert (await stage.control.proof("replaced.test", 5)).served == replaced.fingerprint
    allow(stage, NOTHING)
    await stage.control.put(stage.signers.bundle("closed.test", 6))
    await stage.control.put(stage.signers.bundle("removed.test", 7, kind=BundleKind.REMOVED))
    for domain in ("replaced.test", "closed.test", "removed.test"):
        await until(lambda domain=domain: faulty(stage, domain), f"{domain} is reported")
    for domain in ("closed.test", "removed.test"):
        await stage.node.serves(domain, None)
    stage.node.stop("agent", number=signal.SIGKILL)
    stage.node.stop("nginx")
    await stage.control.stop()
    stage.broker.stop()
    stage.node.start()
    await until(lambda: stage.node.served("kept.test"), "the replica is served")
    assert await stage.node.served("kept.test") == kept
    for domain in ("closed.test", "removed.test", "replaced.test"):
        assert await stage.node.served(domain) is None, domain
    await stage.restart_broker()
    await stage.control.start()
    await stage.node.serves("replaced.test", replaced)
    await stage.control.agrees(NODE)
    assert await stage.node.served("closed.test") is None


async def test_what_the_disk_did_not_take_is_written_once_it_has_room(stage: Stage) -> None:
    allow(stage, NO_BUNDLE)
    replaced = await stage.https("replaced.test", 5)
    await until(lambda: faulty(stage, "replaced.test"), "it is reported")
    assert await stage.node.served("replaced.test") == replaced.fingerprint
    # nginx holds nothing and neither does the disk: it comes from the agent's memory.
    stage.node.stop("nginx", number=signal.SIGKILL)
    stage.node.start("nginx")
    await stage.node.serves("replaced.test", replaced)
    allow(stage, ALL)
    await stage.control.put_keyring(s.keyring_node(NODE), stage.enrolment())
    files = stage.node.folder / "replica"
    await until(lambda: list(files.glob("replaced.test-*")), "it is on the disk")
    stage.control.statuses.clear()
    await stage.control.agrees(NODE)


async def test_usage_waits_for_the_disk_and_is_counted_once(stage: Stage) -> None:
    allow(stage, NOTHING)
    await visit(stage.node, "kept.test", 5)
    await stage.control.put(stage.signers.bundle("closed.test", 5))
    await until(
        lambda: "cannot be written" in missing(stage).get("disk", ""),
        "it says that its disk is full",
    )
    before = len(stage.control.statuses)
    await until(lambda: len(stage.control.statuses) > before + 3, "it reports on")
    assert counted(stage) == 0, "a range that is not written down is not sent"
    allow(stage, ALL)
    await until(lambda: counted(stage) == 5, "all are reported")
    await until(lambda: missing(stage) == {}, "nothing is wrong any more")
