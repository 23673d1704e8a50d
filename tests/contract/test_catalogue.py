"""The catalogue, the streams, the rights and the documents agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared import catalogue, subjects, topology
from shared.catalogue_row import Direction, Subject
from shared.messaging.cloudevents import event_type
from shared.streams import Stream
from tests.support.subject_patterns import pattern_covers
from tools import docs, settings

ALL = [
    (service, direction, row)
    for service in subjects.SERVICES
    for direction, row in catalogue.directions_of(service)
]


@pytest.mark.parametrize("stream", topology.STREAMS, ids=lambda stream: stream.name)
def test_every_subject_of_a_stream_has_a_row_that_describes_it(stream: Stream) -> None:
    if stream.name.startswith("KV_") or stream.name == subjects.STREAM_DEAD:
        return
    for subject in stream.subjects:
        assert any(row == subject for _, _, row in ALL), subject


@pytest.mark.parametrize(
    ("service", "direction", "row"), ALL, ids=lambda value: str(getattr(value, "address", value))
)
def test_a_service_has_exactly_the_right_that_the_direction_needs(
    service: str, direction: Direction, row: Subject
) -> None:
    user = next(user for user in topology.SERVICES if user.name == service)
    subject = row.address.replace("{node}", "n1").replace("{key}", "com.example")
    if row.republished:
        assert not any(pattern_covers(right, subject) for right in user.publish)
        return
    if direction == "send":
        assert any(pattern_covers(right, subject) for right in user.publish)
        return
    taken = [consumer for consumer in topology.CONSUMERS if consumer.service == service]
    streams = {stream.name: stream.subjects for stream in topology.STREAMS}
    by_stream = any(
        pattern_covers(pattern, subject)
        for consumer in taken
        for pattern in (consumer.filters or streams[consumer.stream])
    )
    assert by_stream or any(pattern_covers(right, subject) for right in user.subscribe)


def test_no_service_may_publish_the_event_of_another_service() -> None:
    for row in catalogue.kept_by(subjects.STREAM_EVENTS):
        publishers = {
            u.name for u in topology.USERS if any(pattern_covers(r, row) for r in u.publish)
        }
        assert publishers == set(row.senders), row


def test_a_consumer_filters_what_its_service_receives_and_nothing_else() -> None:
    for consumer in topology.CONSUMERS:
        for pattern in consumer.filters:
            rows = [row for row in catalogue.ROWS if pattern_covers(pattern, row)]
            assert rows and all(consumer.service in row.receivers for row in rows), pattern


def test_a_node_may_publish_under_its_own_id_only() -> None:
    user = topology.node_user("a")
    assert any(pattern_covers(right, catalogue.USAGE_BATCH.for_node("a")) for right in user.publish)
    assert not any(
        pattern_covers(right, catalogue.USAGE_BATCH.for_node("b")) for right in user.publish
    )
    assert not any(
        pattern_covers(right, catalogue.EDGE_STATUS.for_node("b")) for right in user.publish
    )
    assert not any("CONSUMER" in right for right in user.publish)


@pytest.mark.parametrize("domain", ["www.example.com", "*.img.example.test", "example.com"])
def test_a_bundle_key_gives_its_domain_back(domain: str) -> None:
    assert subjects.bundle_domain(subjects.bundle_key(domain)) == domain


def test_the_type_of_a_message_is_its_subject_without_a_nodes_id() -> None:
    assert event_type(catalogue.USAGE_BATCH.for_node("node-1")) == "https.usage.batch.v1"
    assert event_type(catalogue.CMD_DOMAIN_REGISTER) == catalogue.CMD_DOMAIN_REGISTER


@pytest.mark.parametrize("service", subjects.SERVICES)
def test_every_reference_of_an_asyncapi_document_leads_somewhere(service: str) -> None:
    document = docs.asyncapi(service)

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                place: Any = document
                for step in node["$ref"].removeprefix("#/").split("/"):
                    place = place[step]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert document["asyncapi"] == "3.0.0"
    assert {o["action"] for o in document["operations"].values()} <= {"send", "receive"}


@pytest.mark.parametrize("service", subjects.SERVICES)
def test_queries_have_replies_commands_have_ce_headers_and_patterns_have_parameters(
    service: str,
) -> None:
    document = docs.asyncapi(service)
    for direction, row in catalogue.directions_of(service):
        operation = next(
            one
            for one in document["operations"].values()
            if document["channels"][one["channel"]["$ref"].split("/")[-1]]["address"] == row.address
            and one["action"] == direction
        )
        entry = document["channels"][operation["channel"]["$ref"].split("/")[-1]]
        assert ("reply" in operation) == (row.kind == "query")
        assert ("parameters" in entry) == ("{" in row.address)
        message = document["components"]["messages"][next(iter(entry["messages"]))]
        assert ("headers" in message) == row.cloud_event


def test_the_documents_in_the_repository_are_the_generated_ones() -> None:
    for service in subjects.SERVICES:
        assert json.loads(
            (docs.DOCS / "asyncapi" / f"{service}.json").read_text()
        ) == docs.asyncapi(service)
    assert (docs.DOCS / "findings.md").read_text() == docs.findings()
    assert (docs.DOCS / "settings.md").read_text() == settings.page()


def test_a_summary_is_the_whole_first_paragraph() -> None:
    operation = docs.asyncapi("config")["operations"]["send-event-command-settled"]
    assert operation["summary"].endswith("or for the account itself.")


def test_a_setting_of_a_program_is_described_with_its_bounds_and_its_default() -> None:
    row = (
        "| `EDGETLS_VALIDATOR_WORKERS` | whole number, 1 or more, at most 64 | `3` | "
        "validator | worker processes"
    )
    assert row in settings.page()
    assert "| `EDGETLS_NATS_CA_FILE` | `--nats-ca-file` |" in settings.page()
