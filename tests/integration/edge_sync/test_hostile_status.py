"""One node that says the impossible costs nobody else anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from shared import catalogue
from shared.contracts.edge import Proof
from tests.integration.edge_sync.harness import FakeNode, World
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def _say(node: FakeNode, **changes: Any) -> None:
    """Its status, with what no contract would let through."""
    body = json.loads(node.status().encode()) | changes
    await node.client.publish(catalogue.EDGE_STATUS.for_node(node.node), json.dumps(body).encode())


@pytest.mark.parametrize("number", [2**63, 2**100, -(2**64)])
async def test_a_status_with_an_impossible_number_is_dropped(world: World, number: int) -> None:
    replica = await world.run()
    node = await world.node("node-1")
    await _say(node, sequence=number)
    await _say(node, epochs=[number])
    await _say(node, epochs=list(range(100_000)))
    await _say(node, incarnation="x" * 900_000)
    await node.client.flush()
    bundle = await world.config.change(DOMAIN)
    await world.until_told(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert len((await world.view()).nodes[0].epochs) == 1
    assert replica.process.returncode is None
    assert str(number) not in replica.log.read_text()


async def test_a_fault_of_a_megabyte_is_dropped_and_revisions_go_on(world: World) -> None:
    replica = await world.run(LAGGING_SECONDS="1")
    node = await world.node("node-1", proves=False)
    node.digest.put("nothing.example", 1, "0" * 64)  # so that its digest proves nothing
    bundle = await world.config.change(DOMAIN)
    await world.until_held(bundle)
    proof = Proof(
        domain=DOMAIN,
        revision=bundle.revision,
        applied_at=datetime.now(UTC),
        served=None,
        fault="x" * 500,
    )
    await node.report(proof)
    huge = json.loads(proof.model_dump_json()) | {"fault": "y" * 1_000_000}
    await _say(node, proofs=[huge])
    told = await world.until_told(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert told["faults"] == {"node-1": "x" * 500}
    node.proves, node.digest = True, type(node.digest)()
    for domain in ("a.example.test", "b.example.test"):
        await world.until_told(
            catalogue.EVENT_EDGE_CONVERGED, revision=(await world.config.change(domain)).revision
        )
    assert replica.process.returncode is None


async def test_a_row_that_the_database_refuses_keeps_no_other_back(world: World) -> None:
    replica = await world.run()
    connection = await asyncpg.connect(world.ground.dsn)
    await connection.execute("alter table nodes add check (node <> 'node-2' or last_seen is null)")
    for name in ("node-1", "node-2", "node-3"):
        await world.node(name)

    async def seen() -> bool:
        rows = await connection.fetch("select node from nodes where last_seen is not null")
        return {row["node"] for row in rows} == {"node-1", "node-3"}

    await until(seen, "the other two are written down")
    await connection.close()
    await until(lambda: "seen.refused" in replica.log.read_text(), "it says so")
    assert replica.process.returncode is None and await replica.missing() == {}
