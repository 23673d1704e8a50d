"""Every process outlives three minutes without the broker.

The outage begins before the end-to-end tests, so that nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.faults.broker_outage import OUTAGE_SECONDS, BrokerOutage
from tests.support.waiting import LIMIT_SECONDS, until

MOST_OF_A_PROCESSOR = 0.25
"""A process that waits for the broker must not spin."""


async def _health(places: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return the status of /livez and /readyz by service."""

    async def status(place: str, path: str) -> int:
        host, _, port = place.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        try:
            first_line = await asyncio.wait_for(reader.readline(), LIMIT_SECONDS)
            return int(first_line.split()[1])
        finally:
            writer.close()

    found = {}
    for name, place in places.items():
        found[name] = (await status(place, "/livez"), await status(place, "/readyz"))
    return found


async def test_a_broker_outage_of_three_minutes_is_outlived_by_every_process(
    begun_outage: BrokerOutage,
) -> None:
    workload, platform = begun_outage.workload, begun_outage.platform
    before = workload.visits.answered.copy()
    async with workload.visiting():
        await workload.until_answered(500)
        await until(
            begun_outage.is_long_enough,
            "three minutes are over",
            limit=OUTAGE_SECONDS + LIMIT_SECONDS,
        )
        for name, (live, ready) in (await _health(platform.run["health"])).items():
            assert (live, ready) == (200, 503), (
                f"{name} answers {live} and {ready} while the broker is away"
            )
    spent = begun_outage.processor_seconds_spent()
    print({name: f"{seconds:.1f} s" for name, seconds in spent.items()})
    answered = workload.visits.answered - before
    assert all(answered[node.node] > 0 for node in workload.nodes), (
        "a node did not serve without the broker"
    )
    assert not workload.visits.broken, f"requests were broken off: {workload.visits.broken}"

    await begun_outage.proxy.restore()
    await platform.wait_ready()
    pids = {name: platform.pid(name) for name in platform.names()}
    assert pids == begun_outage.pids, "something was restarted"
    for domain in workload.domains:
        await workload.upload_until_live(domain)
    print(await workload.check_everything())
    most = OUTAGE_SECONDS * MOST_OF_A_PROCESSOR
    busy = {name: seconds for name, seconds in spent.items() if seconds > most}
    assert not busy, f"these spun while the broker was away (processor seconds): {busy}"
