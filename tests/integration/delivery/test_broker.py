"""Logins, closed connections and the topology of a real broker."""

from __future__ import annotations

import pytest
from nats.js.api import RetentionPolicy

from clients.fleet.keys import ensure_nkey
from shared import streams, subjects, topology
from shared.errors import EdgetlsError, SettingsError
from shared.messaging.connection import probe
from shared.observability.health import Health
from shared.runtime import _watch_broker
from tests.support.cluster import LocalCluster
from tests.support.waiting import within


async def test_a_connection_that_was_closed_for_good_says_why_and_is_no_fault_of_the_settings(
    cluster: LocalCluster,
) -> None:
    client = await cluster.client("platform")
    await client._send_command(f"PUB x {streams.MAX_PAYLOAD + 1}\r\n".encode())
    await client._flush_pending()
    with pytest.raises(EdgetlsError, match="for good: maximum payload violation") as error:
        await within(_watch_broker(client, Health()), "the loss is noticed")
    assert not isinstance(error.value, SettingsError)


async def test_a_refused_login_says_so_at_once(cluster: LocalCluster) -> None:
    settings = cluster.settings("platform").model_copy(
        update={"nats_seed_file": cluster.folder / "stranger.nk"}
    )
    ensure_nkey(settings.nats_seed_file)
    with pytest.raises(SettingsError, match="refused the login"):
        await probe(settings, "platform")


async def test_the_topology_is_what_it_says_and_a_second_apply_changes_nothing(
    cluster: LocalCluster,
) -> None:
    js = (await cluster.client("topology")).jetstream(timeout=30)
    admin = (await cluster.client("stream_admin")).jetstream(timeout=30)
    assert {change.action for change in await topology.plan(js)} == {"same"}
    await admin.delete_consumer(subjects.STREAM_USAGE, subjects.DURABLE_BILLING_REQUESTS)
    found = (await js.stream_info(subjects.STREAM_EVENTS)).config
    await admin.update_stream(found.evolve(max_msg_size=1000))
    changed = [change.name for change in await topology.apply(js) if change.action != "same"]
    assert changed == [
        subjects.STREAM_EVENTS,
        f"{subjects.STREAM_USAGE}/{subjects.DURABLE_BILLING_REQUESTS}",
    ]
    assert {change.action for change in await topology.plan(js)} == {"same"}


async def test_an_empty_stream_of_another_kind_is_made_anew_and_no_other_is_deleted(
    cluster: LocalCluster,
) -> None:
    js = (await cluster.client("topology")).jetstream(timeout=30)
    admin = (await cluster.client("stream_admin")).jetstream(timeout=30)
    for name in (subjects.STREAM_USAGE, subjects.STREAM_JUDGING):
        found = (await js.stream_info(name)).config
        kinds = {
            RetentionPolicy.LIMITS: RetentionPolicy.WORK_QUEUE,
            RetentionPolicy.WORK_QUEUE: RetentionPolicy.LIMITS,
        }
        await admin.delete_stream(name)
        await admin.add_stream(found.evolve(retention=kinds[found.retention]))  # type: ignore[index]
    with pytest.raises(
        SettingsError, match="JUDGING is kept in another way than it was made: delete it by hand"
    ):
        await topology.apply(js)
    await admin.delete_stream(subjects.STREAM_JUDGING)
    await topology.apply(js)
    assert {change.action for change in await topology.plan(js)} == {"same"}
