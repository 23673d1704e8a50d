"""Any process can be killed at any moment, during uploads and usage, and the story still ends
right."""

from __future__ import annotations

import random
import zlib

import pytest

from deploy.embedded.platform import EmbeddedPlatform
from tests.faults.story import Story
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
    victims: list[str], platform: EmbeddedPlatform, story: Story, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(zlib.crc32(" ".join(victims).encode()))
    answered, logged, broken = (
        story.visits.answered.copy(),
        story.logged(),
        story.visits.broken.copy(),
    )
    async with story.going_on():
        for _ in range(KILLS):
            await story.requests(chance.randrange(20, 300))
            for victim in victims:
                await until(
                    lambda name=victim: platform.pid(name), f"{victim} is started again", limit=30
                )
                platform.kill(victim)
        await story.each_replaced()
    await platform.wait_ready()
    print(request.node.name, await story.check())
    answered, logged = story.visits.answered - answered, story.logged() - logged
    broken = story.visits.broken - broken
    for node in story.nodes:
        unlogged = answered[node.node] - logged[node.node]
        in_flight = KILLS * len(story.domains) if f"{node.node}-nginx" in victims else 0
        assert unlogged <= in_flight, (
            f"{node.node} answered {unlogged} requests without a line in its log"
        )
        assert not broken[node.node] or in_flight, (
            f"{broken[node.node]} requests to {node.node} were broken off"
        )
