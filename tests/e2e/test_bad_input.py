"""Bad input goes where it can be seen, with its reason, and nothing else is lost or touched."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client as Connection
from nats.errors import Error as NatsError

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send_commands
from clients.platform import Platform as Client
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue, topology
from shared import subjects as s
from shared.contracts.domains import Outcome
from shared.contracts.queries import (
    DeadLetter,
    ListDead,
    Nothing,
    OneDead,
)
from shared.contracts.usage import HttpsRequest
from shared.messaging.rpc import ask
from tests.e2e.logins import Logins
from tests.support.browser import NodeAddress, served_leaves, trusting_context
from tests.support.customer import applied, registered, settled, uploaded
from tests.support.pki import issue_pair
from tests.support.waiting import until

ACCOUNT, NODE = "bad-input", "node-1"
GARBAGE = b"\x00 this is no JSON"
STRANGE = b'{"surprise": "of another version"}'
# User, subject that it may publish, and the beginning of the name that its dead letters have.
MALFORMED = [
    *(
        ("config", subject, s.STREAM_COMMANDS_CONFIG)
        for subject in catalogue.received_by("config", "command")
    ),
    *(
        ("billing", subject, s.STREAM_COMMANDS_BILLING)
        for subject in catalogue.received_by("billing", "command")
    ),
    *(
        ("edge_sync", subject, s.STREAM_FLEET)
        for subject in catalogue.received_by("edge_sync", "command")
    ),
    ("config", catalogue.JUDGE_SUBMISSION, f"{s.STREAM_JUDGING}_submission"),
    ("validator", catalogue.VERDICT_SUBMISSION, f"{s.STREAM_JUDGING}_verdict"),
    ("edge_sync", catalogue.EVENT_EDGE_CONVERGED, f"{s.STREAM_EVENTS}_config"),
    ("config", catalogue.EVENT_DOMAIN_CHANGED, f"{s.STREAM_EVENTS}_edge_sync"),
    ("config", catalogue.EVENT_DOMAIN_REGISTERED, f"{s.STREAM_EVENTS}_billing"),
    ("edge_sync", catalogue.EVENT_NODE_ENROLLED, f"{s.STREAM_EVENTS}_billing"),
    (f"node-{NODE}", catalogue.USAGE_BATCH.for_node(NODE), s.STREAM_USAGE),
    ("platform", catalogue.USAGE_REQUEST, s.STREAM_USAGE),
]
CARRY_SEALED_KEYS = {
    catalogue.CMD_CERTIFICATE_SUBMIT,
    catalogue.CMD_CERTIFICATE_STORE,
    catalogue.CMD_PAIR_RESEAL,
    catalogue.JUDGE_SUBMISSION,
    catalogue.VERDICT_SUBMISSION,
}
"""Of these only headers and the reason are kept in a dead letter."""


@pytest.fixture
async def live_domain(customer: Client, ca: DevCa) -> AsyncIterator[tuple[str, CertificatePair]]:
    """A domain of the test's own, and the pair that every node serves it with."""
    domain = f"www.bad-{secrets.token_hex(3)}.test"
    await registered(customer, domain, ACCOUNT)
    pair = issue_pair(ca, domain)
    await uploaded(customer, domain, ACCOUNT, pair)
    yield domain, pair
    await applied(customer, await customer.disable(domain, ACCOUNT))


async def test_malformed_messages_of_every_kind_are_dead_letters_and_nothing_else_is_lost(
    platform: EmbeddedPlatform,
    customer: Client,
    ca: DevCa,
    login: Logins,
    live_domain: tuple[str, CertificatePair],
    nodes: list[NodeAddress],
) -> None:
    domain, _ = live_domain
    sent: dict[str, tuple[str, str, bytes]] = {}
    pairs = [issue_pair(ca, domain) for _ in range(3)]
    requests = _make_requests(domain, 100)
    total = len(requests)
    usage = (await login("platform")).jetstream(timeout=30)

    async def send_malformed() -> None:
        for user, subject, source in MALFORMED:
            js = (await login(user)).jetstream(timeout=30)
            bodies = [GARBAGE, STRANGE]
            # Whoever reads EVENTS reads JSON: what is none cannot come from a service.
            if subject in catalogue.kept_by(s.STREAM_EVENTS):
                bodies = [STRANGE]
            for body in bodies:
                identity = f"bad-{secrets.token_hex(6)}"
                await js.publish(
                    subject, body, headers={"ce-id": identity, "ce-source": "stranger"}
                )
                sent[identity] = (subject, source, body)
                if requests:
                    await usage.publish(catalogue.USAGE_REQUEST, requests.pop().encode())

    async def send_good() -> None:
        for pair in pairs:
            await uploaded(customer, domain, ACCOUNT, pair)

    await asyncio.gather(send_malformed(), send_good())
    for request in requests:
        await usage.publish(catalogue.USAGE_REQUEST, request.encode())
    await _label(platform, await login("operator"), {"tried": "bad input"})
    assert (
        await customer.credit(ACCOUNT, f"after-{secrets.token_hex(4)}", "1", "CNY")
    ).change == "credited"

    letters = await _take_dead_letters(await login("operator"), sent)
    for identity, (subject, source, body) in sent.items():
        letter = letters[identity]
        assert letter.subject == subject and source.startswith(letter.stream), letter
        assert letter.reason, f"{subject} has no reason"
        assert "surprise of" not in letter.reason and "this is no" not in letter.reason
        assert letter.body == (
            None if subject in CARRY_SEALED_KEYS else body.decode(errors="replace")
        )
    await until(lambda: _are_all_taken(login), "every stream is worked off to its end")
    context = trusting_context(Path(platform.run["trust_roots"]))
    assert await served_leaves(nodes, domain, context) == {pairs[-1].leaf}
    await until(
        lambda: _are_counted(customer, domain, total),
        f"{total} requests among the bad ones are counted",
    )
    await _label(platform, await login("operator"), {})


def _make_requests(domain: str, count: int) -> list[HttpsRequest]:
    run = secrets.token_hex(4)
    now = datetime.now(UTC)
    return [
        HttpsRequest(
            id=f"{run}-{number}",
            source="onboarding",
            time=now,
            domain=domain,
            bytes=1,
            status=200,
            node=NODE,
        )
        for number in range(count)
    ]


async def _are_counted(customer: Client, domain: str, total: int) -> bool:
    now = datetime.now(UTC)
    rows = await customer.usage(
        now - timedelta(hours=1),
        now + timedelta(hours=1),
        by="domain",
        account=ACCOUNT,
        domain=domain,
    )
    counted = sum(row.https_requests for row in rows)
    assert counted <= total
    return counted == total


async def _label(platform: EmbeddedPlatform, operator: Connection, labels: dict[str, str]) -> None:
    """Label a node; return when edge_sync shows it: orders to the fleet still arrive."""
    fleet = FleetFile.read(Path(platform.run["fleet_file"]))
    now = datetime.now(UTC)
    await send_commands(operator, [commands.label_node(fleet, NODE, labels, now)], now)

    async def shown() -> bool:
        view = await ask(operator, catalogue.RPC_FLEET_SHOW, Nothing())
        return next(node.labels for node in view.nodes if node.node == NODE) == labels

    await until(shown, "the node is labelled")


async def _read_dead_letters(operator: Connection) -> dict[str, list[DeadLetter]]:
    """Return the dead letters by the service that keeps them."""
    pages = {
        service: await ask(operator, catalogue.RPC_DEAD_LIST[service], ListDead(limit=500))
        for service in s.DEAD_OWNERS
    }
    return {service: page.letters for service, page in pages.items()}


async def _take_dead_letters(
    operator: Connection, sent: dict[str, tuple[str, str, bytes]]
) -> dict[str, DeadLetter]:
    """Wait for the dead letters of what was sent; drop and return them, by id."""
    found: dict[str, tuple[str, DeadLetter]] = {}

    async def all_there() -> bool:
        for service, letters in (await _read_dead_letters(operator)).items():
            found.update({one.headers.get("ce-id", ""): (service, one) for one in letters})
        return sent.keys() <= found.keys()

    try:
        await until(all_there, "every malformed message is a dead letter")
    except AssertionError:
        missing = [subject for identity, (subject, *_) in sent.items() if identity not in found]
        raise AssertionError(f"no dead letter of {missing}") from None
    for identity, (_, source, _) in sent.items():
        service, letter = found[identity]
        assert source in s.DEAD_OWNERS[service], f"{letter.subject} is a dead letter of {service}"
        await ask(operator, catalogue.RPC_DEAD_DROP[service], OneDead(sequence=letter.sequence))
    return {identity: found[identity][1] for identity in sent}


async def _are_all_taken(login: Logins) -> bool:
    js = (await login("topology")).jetstream(timeout=30)
    for consumer in topology.CONSUMERS:
        info = await js.consumer_info(consumer.stream, consumer.durable)
        if info.num_pending or info.num_ack_pending:
            return False
    return True


async def test_a_command_that_nobody_knows_is_not_taken(login: Logins) -> None:
    for user in ("platform", "operator"):
        js = (await login(user)).jetstream(timeout=1)
        with pytest.raises(NatsError):
            await js.publish("https.cmd.certificate.invent.v1", b"{}")


async def test_a_command_without_an_id_or_with_one_used_before_is_a_dead_letter(
    customer: Client, login: Logins, live_domain: tuple[str, CertificatePair]
) -> None:
    domain, _ = live_domain
    js = (await login("platform")).jetstream(timeout=30)
    ordered = await customer.change_settings(domain, ACCOUNT, http2=True)
    await settled(customer, ordered)
    body = b'{"domain":"%s","account":"%s"}' % (domain.encode(), ACCOUNT.encode())
    nameless = await js.publish(catalogue.CMD_HTTPS_DISABLE, body)
    twice = await js.publish(
        catalogue.CMD_HTTPS_DISABLE,
        body,
        headers={"ce-id": ordered.command_id, "ce-source": "stranger"},
    )
    operator = await login("operator")
    letters: dict[int, DeadLetter] = {}

    async def there() -> bool:
        found = (await _read_dead_letters(operator))["config"]
        letters.update(
            {one.sequence: one for one in found if one.subject == catalogue.CMD_HTTPS_DISABLE}
        )
        return len(letters) == 2

    await until(there, f"commands {nameless.seq} and {twice.seq} are dead letters")
    reasons = sorted(letter.reason for letter in letters.values())
    assert reasons[0].startswith("id_conflict") and reasons[1].startswith("malformed"), reasons
    assert (await customer.show(domain, ACCOUNT)).certificates, (
        "the domain was disabled by a refused command"
    )
    for sequence in letters:
        await ask(operator, catalogue.RPC_DEAD_DROP["config"], OneDead(sequence=sequence))


async def test_a_refused_upload_leaves_the_live_certificate_untouched(
    platform: EmbeddedPlatform,
    customer: Client,
    ca: DevCa,
    live_domain: tuple[str, CertificatePair],
    nodes: list[NodeAddress],
) -> None:
    domain, pair = live_domain
    context = trusting_context(Path(platform.run["trust_roots"]))
    before = await customer.show(domain, ACCOUNT)
    fresh = issue_pair(ca, domain)
    other = issue_pair(ca, domain)
    old = datetime.now(UTC) - timedelta(days=9)
    refused = {
        "key.mismatch": (fresh.chain, other.key),
        "certificate.missing": ("no certificate at all", fresh.key),
        "certificate.contains_key": (fresh.chain + fresh.key, fresh.key),
        "certificate.expired": ca.issue([domain], "ecdsa", old - timedelta(days=1), old),
        "domain.mismatch": ca.issue(["www.elsewhere.test"], "ecdsa"),
    }
    for code, (chain, key) in refused.items():
        ordered = await customer.submit(domain, ACCOUNT, chain, key)
        end = await settled(customer, ordered)
        assert end.outcome is Outcome.REFUSED and code in end.codes, f"{code}: {end}"
        assert await served_leaves(nodes, domain, context) == {pair.leaf}, code
    after = await customer.show(domain, ACCOUNT)
    assert (after.revision, after.certificates) == (before.revision, before.certificates)
