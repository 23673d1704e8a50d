"""Three minutes without the broker are outlived by every process. (The outage begins before the
end-to-end tests.)"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.faults.outage import SECONDS, Outage
from tests.support.waiting import until

_MOST_PROCESSOR = 0.25
"""Of one processor: who waits for the broker must not spin."""


async def _health(places: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """What /livez and /readyz answer, by service."""

    async def status(place: str, path: str) -> int:
        host, _, port = place.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        try:
            return int((await asyncio.wait_for(reader.readline(), 5)).split()[1])
        finally:
            writer.close()

    return {
        name: (await status(place, "/livez"), await status(place, "/readyz"))
        for name, place in places.items()
    }


async def test_a_broker_outage_of_three_minutes_is_outlived_by_every_process(
    broker_outage: Outage,
) -> None:
    story, platform = broker_outage.story, broker_outage.platform
    before = story.visits.answered.copy()
    async with story.visiting():
        await story.requests(500)
        await until(broker_outage.over, "three minutes are over", limit=SECONDS + 5)
        for name, (live, ready) in (await _health(broker_outage.platform.run["health"])).items():
            assert (live, ready) == (200, 503), (
                f"{name} answers {live} and {ready} while the broker is away"
            )
    spent = {
        name: used - broker_outage.used[name]
        for name, used in broker_outage.processor_seconds().items()
    }
    print({name: f"{seconds:.1f} s" for name, seconds in spent.items()})
    answered = story.visits.answered - before
    assert all(answered[node.node] > 0 for node in story.nodes), (
        "every node served without the broker"
    )
    assert not story.visits.broken, f"requests were broken off: {story.visits.broken}"

    await broker_outage.proxy.mend()
    await platform.wait_ready()
    assert {name: platform.pid(name) for name in platform.names()} == broker_outage.pids, (
        "something was restarted"
    )
    for domain in story.domains:
        await story.live(await story.upload(domain))
    print(await story.check())
    busy = {name: seconds for name, seconds in spent.items() if seconds > SECONDS * _MOST_PROCESSOR}
    assert not busy, f"these spun while the broker was away (processor seconds): {busy}"
