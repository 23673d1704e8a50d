"""The table of channels, the subjects and the topology say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared import subjects, topology
from shared.catalogue import BY_SERVICE, Channel
from shared.streams import Stream
from tests.support.subjects import covers
from tools import docs, settings

ALL = [channel for channels in BY_SERVICE.values() for channel in channels]


@pytest.mark.parametrize("stream", topology.STREAMS, ids=lambda stream: stream.name)
def test_every_subject_of_a_stream_has_a_channel_that_describes_it(stream: Stream) -> None:
    if stream.name.startswith("KV_") or stream.name == subjects.STREAM_DEAD:
        return
    for subject in stream.subjects:
        assert any(c.subject.replace("{node}", "*") == subject for c in ALL), subject


@pytest.mark.parametrize("channel", ALL, ids=lambda c: f"{c.owner} {c.direction} {c.subject}")
def test_the_owner_of_a_channel_has_exactly_the_right_that_its_direction_needs(
    channel: Channel,
) -> None:
    user = next(user for user in topology.SERVICES if user.name == channel.owner)
    subject = channel.subject.replace("{node}", "n1").replace("{key}", "com.example")
    if subject.startswith(subjects.EDGE_LIVE_PREFIX):
        return  # republished by the server itself
    if channel.direction == "send":
        assert any(covers(right, subject) for right in user.publish)
        return
    taken = [c for c in topology.CONSUMERS if channel.owner.replace("_", "-") in c.durable]
    streams = {s.name: s.subjects for s in topology.STREAMS}
    by_stream = any(covers(p, subject) for c in taken for p in (c.filters or streams[c.stream]))
    assert by_stream or any(covers(right, subject) for right in user.subscribe)


def test_no_service_may_publish_what_another_service_owns() -> None:
    facts = {c.subject: c.owner for c in ALL if c.kind == "event" and c.direction == "send"}
    for subject, owner in facts.items():
        publishers = {u.name for u in topology.USERS if any(covers(r, subject) for r in u.publish)}
        assert publishers == {owner}, subject


def test_a_node_may_publish_under_its_own_id_only() -> None:
    user = topology.node_user("a")
    assert any(covers(right, subjects.usage_batch("a")) for right in user.publish)
    assert not any(covers(right, subjects.usage_batch("b")) for right in user.publish)
    assert not any(covers(right, subjects.edge_status("b")) for right in user.publish)
    assert not any("CONSUMER" in right for right in user.publish)


@pytest.mark.parametrize("domain", ["www.example.com", "*.img.example.test", "example.com"])
def test_a_bundle_key_gives_its_domain_back(domain: str) -> None:
    assert subjects.bundle_domain(subjects.bundle_key(domain)) == domain


def test_the_type_of_a_message_is_its_subject_without_a_nodes_id() -> None:
    assert subjects.event_type(subjects.usage_batch("node-1")) == "https.usage.batch.v1"
    assert subjects.event_type(subjects.CMD_DOMAIN_REGISTER) == subjects.CMD_DOMAIN_REGISTER


@pytest.mark.parametrize("service", BY_SERVICE)
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


@pytest.mark.parametrize("service", BY_SERVICE)
def test_queries_have_replies_commands_have_ce_headers_and_patterns_have_parameters(
    service: str,
) -> None:
    document = docs.asyncapi(service)
    for channel in BY_SERVICE[service]:
        operation = next(
            o
            for o in document["operations"].values()
            if document["channels"][o["channel"]["$ref"].split("/")[-1]]["address"]
            == channel.subject
            and o["action"] == channel.direction
        )
        entry = document["channels"][operation["channel"]["$ref"].split("/")[-1]]
        assert ("reply" in operation) == (channel.kind == "query")
        assert ("parameters" in entry) == ("{" in channel.subject)
        message = document["components"]["messages"][next(iter(entry["messages"]))]
        assert ("headers" in message) == channel.ce


def test_the_documents_in_the_repository_are_the_generated_ones() -> None:
    for service in BY_SERVICE:
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
