"""Any process can be killed at any moment, during uploads and usage, and everything still ends
right."""

from __future__ import annotations

import random
import zlib

import pytest

from deploy.embedded.platform import EmbeddedPlatform
from tests.faults.workload import Workload
from tests.support.waiting import until

KILLS = 8
VICTIMS = {
    "the validator": ["validator"],
    "config in both its replicas": ["config", "config-2"],
    "one of two replicas of config": ["config-2"],
    "edge_sync": ["edge_sync"],
    "billing": ["billing"],
    "the agent of a node": ["node-1-agent"],
    "nginx of a node": ["node-1-nginx"],
    "the broker": ["nats"],
    "PostgreSQL": ["postgres"],
}


@pytest.mark.parametrize("victims", VICTIMS.values(), ids=VICTIMS.keys())
async def test_uploads_and_usage_survive_the_kills_of(
    victims: list[str],
    platform: EmbeddedPlatform,
    workload: Workload,
    request: pytest.FixtureRequest,
) -> None:
    chance = random.Random(zlib.crc32(" ".join(victims).encode()))
    async with workload.running():
        for _ in range(KILLS):
            await workload.until_answered(chance.randrange(20, 300))
            for victim in victims:
                await until(lambda name=victim: platform.pid(name), f"{victim} is started again")
                platform.kill(victim)
        await workload.until_each_replaced()
    await platform.wait_ready()
    print(request.node.name, await workload.check_everything())
    logged = workload.count_logged()
    for node in workload.nodes:
        answered = workload.visits.answered[node.node]
        broken = workload.visits.broken[node.node]
        unlogged = answered - logged[node.node]
        # A killed nginx takes along the lines of the requests that it was answering.
        in_flight = 0
        if f"{node.node}-nginx" in victims:
            in_flight = KILLS * len(workload.domains)
        assert unlogged <= in_flight, (
            f"{node.node} answered {unlogged} requests without a line in its log"
        )
        assert not broken or in_flight, f"{broken} requests to {node.node} were broken off"
