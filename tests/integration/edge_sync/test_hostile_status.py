"""A node that reports nonsense harms no other node and no service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from shared import catalogue
from shared.contracts.edge import Proof
from tests.integration.edge_sync.harness import EdgeSyncHarness
from tests.support.fakes.config_and_nodes import FakeNode
from tests.support.waiting import until

DOMAIN = "www.example.test"


async def _publish_forged(node: FakeNode, **changes: Any) -> None:
    """Publish the node's status with values that its contract forbids."""
    body = json.loads(node.build_status().encode()) | changes
    await node.client.publish(catalogue.EDGE_STATUS.for_node(node.node), json.dumps(body).encode())


@pytest.mark.parametrize("number", [2**63, 2**100, -(2**64)])
async def test_a_status_with_an_impossible_number_is_dropped(
    harness: EdgeSyncHarness, number: int
) -> None:
    replica = await harness.start_replica()
    node = await harness.add_node("node-1")
    await _publish_forged(node, sequence=number)
    await _publish_forged(node, epochs=[number])
    await _publish_forged(node, epochs=list(range(100_000)))
    await _publish_forged(node, incarnation="x" * 900_000)
    await node.client.flush()
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_event(catalogue.EVENT_EDGE_CONVERGED, revision=bundle.revision)
    assert len((await harness.show_fleet()).nodes[0].epochs) == 1
    assert replica.pid is not None
    assert str(number) not in replica.log_file.read_text()


async def test_a_fault_of_a_megabyte_is_dropped_and_revisions_go_on(
    harness: EdgeSyncHarness,
) -> None:
    replica = await harness.start_replica(LAGGING_SECONDS="1")
    node = await harness.add_node("node-1", proves=False)
    node.digest.put("nothing.example", 1, "0" * 64)  # so that its digest proves nothing
    bundle = await harness.config.change_domain(DOMAIN)
    await harness.wait_for_bundle(bundle)
    proof = Proof(
        domain=DOMAIN,
        revision=bundle.revision,
        applied_at=datetime.now(UTC),
        served=None,
        fault="x" * 500,
    )
    await node.publish_status(proof)
    huge = json.loads(proof.model_dump_json()) | {"fault": "y" * 1_000_000}
    await _publish_forged(node, proofs=[huge])
    body = await harness.wait_for_event(catalogue.EVENT_EDGE_LAGGING, revision=bundle.revision)
    assert body["faults"] == {"node-1": "x" * 500}
    node.proves, node.digest = True, type(node.digest)()
    for domain in ("a.example.test", "b.example.test"):
        await harness.wait_for_event(
            catalogue.EVENT_EDGE_CONVERGED,
            revision=(await harness.config.change_domain(domain)).revision,
        )
    assert replica.pid is not None


async def test_a_row_that_the_database_refuses_keeps_no_other_back(
    harness: EdgeSyncHarness,
) -> None:
    replica = await harness.start_replica()
    connection = await asyncpg.connect(harness.cluster.dsns["edge_sync"])
    await connection.execute("alter table nodes add check (node <> 'node-2' or last_seen is null)")
    for name in ("node-1", "node-2", "node-3"):
        await harness.add_node(name)

    async def others_are_saved() -> bool:
        rows = await connection.fetch("select node from nodes where last_seen is not null")
        return {row["node"] for row in rows} == {"node-1", "node-3"}

    await until(others_are_saved, "the other two are written down")
    await connection.close()
    await until(
        lambda: "last_seen.refused" in replica.log_file.read_text(), "the refused row is logged"
    )
    assert replica.pid is not None and await replica.is_ready()
