"""Processes, broker and database die in the middle of it; nothing is lost, doubled or out of
order."""

from __future__ import annotations

import pytest

from shared import catalogue, topology
from shared import subjects as s
from shared.contracts.certificates import SetRoots
from shared.contracts.commands import RegisterDomain
from shared.contracts.domains import DomainState, Origin, Outcome, ServiceType
from shared.contracts.edge import Converged
from shared.contracts.queries import OneDead
from shared.errors import Refused
from shared.ids import new_id
from tests.integration.config.harness import ConfigHarness, domain_name
from tests.support.factories import ACCOUNT
from tests.support.pki import Authority
from tests.support.waiting import until


def registration(domain: str) -> RegisterDomain:
    origin = Origin(scheme="https", host="origin.example.com", port=443)
    return RegisterDomain(
        domain=domain, account=ACCOUNT, service_type=ServiceType.DOWNLOAD, origin=origin
    )


async def test_a_message_that_was_committed_and_not_yet_published_goes_out_after_a_kill(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()

    async def nobody_relays() -> bool:
        """Somebody who never gives it back holds the lease: what is committed stays unsent."""
        await harness.database.execute(
            "update leases set holder = 'test', expires_at = now() + interval '1 hour' where "
            "name = 'outbox'"
        )
        probe = await harness.disable(domain_name())
        age = (
            "select extract(epoch from clock_timestamp() - created_at) from outbox where "
            "sent_at is null"
        )
        await until(
            lambda: harness.database.fetchval(
                "select count(*) from history where command_id = $1", probe
            ),
            "the probe is decided",
        )
        return bool((await harness.database.fetchval(f"{age} order by id limit 1") or 0) > 1)

    await until(nobody_relays, "no process relays")
    command = await harness.send(catalogue.CMD_DOMAIN_REGISTER, registration(domain))
    await until(
        lambda: harness.database.fetchval("select count(*) from domains where name = $1", domain),
        "it is committed",
    )
    harness.kill()
    assert not harness.events_of(catalogue.EVENT_COMMAND_SETTLED, command)
    await harness.database.execute("update leases set expires_at = now() where name = 'outbox'")
    assert (await harness.settled(command)).outcome is Outcome.APPLIED
    assert len(harness.events_of(catalogue.EVENT_DOMAIN_REGISTERED, command)) == 1
    await harness.ready()


async def test_commands_sent_while_every_process_is_killed_again_and_again_are_each_done_once(
    harness: ConfigHarness,
) -> None:
    domains = [domain_name("kill") for _ in range(40)]
    sent = []
    for number, domain in enumerate(domains):
        sent.append(await harness.send(catalogue.CMD_DOMAIN_REGISTER, registration(domain)))
        if number % 15 == 7:
            await harness.ready()
            harness.kill()
    for command in sent:
        assert (await harness.settled(command)).outcome is Outcome.APPLIED
    for command in sent:
        assert len(harness.events_of(catalogue.EVENT_DOMAIN_REGISTERED, command)) == 1
    await harness.ready()


async def test_a_submission_outlives_the_death_of_broker_and_database(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    harness.cluster.kill("nats")
    harness.cluster.kill("postgres")
    await harness.verdict(question, pairs=[harness.pair(domain)])
    assert (await harness.settled(submission)).outcome is Outcome.APPLIED
    await harness.ready()
    assert (await harness.show(domain)).state is DomainState.ENABLED


async def test_a_stream_that_was_made_anew_counts_from_one_and_its_commands_run(
    harness: ConfigHarness,
) -> None:
    before = await harness.register(domain_name())
    admin = (await harness.cluster.client("stream_admin")).jetstream(timeout=10)
    await admin.delete_stream(s.STREAM_COMMANDS_CONFIG)
    await topology.apply(admin)
    domain = domain_name()
    after = await harness.register(domain)
    assert (
        after.revision is not None
        and before.revision is not None
        and after.revision > before.revision
    )
    assert (
        await harness.database.fetchval(
            "select count(*) from inbox_streams where stream = $1", s.STREAM_COMMANDS_CONFIG
        )
        >= 2
    )


async def test_what_every_node_serves_is_shown_and_an_older_word_of_it_is_not_taken_back(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    live = await harness.enable(domain)
    assert live.revision is not None
    for revision in (live.revision, live.revision - 1):
        event = Converged(
            domain=domain,
            account=ACCOUNT,
            revision=revision,
            command_id=live.command_id,
            nodes=1,
            p50_ms=1,
            p99_ms=1,
            slowest="n1",
            slowest_ms=1,
            others=[],
        )
        await harness.send(catalogue.EVENT_EDGE_CONVERGED, event, user="edge_sync")

    async def shown() -> bool:
        return (await harness.show(domain)).live_revision == live.revision

    await until(shown, "the live revision is shown")


async def test_a_restart_moves_past_the_highest_revision_of_the_fleet(
    harness: ConfigHarness,
) -> None:
    highest = int(await harness.database.fetchval("select last_value from revision")) + 10_000
    harness.max_revision = highest
    harness.kill()

    async def moved() -> bool:
        return bool(
            await harness.database.fetchval("select last_value >= $1 from revision", highest)
        )

    await until(moved, "the sequence moved")
    await harness.ready()
    settled = await harness.register(domain_name())
    assert settled.revision is not None and settled.revision > highest


async def test_a_restored_database_decides_nothing_until_the_fleet_named_its_highest_revision(
    harness: ConfigHarness,
) -> None:
    highest = int(await harness.database.fetchval("select last_value from revision")) + 10_000
    harness.max_revision = None
    await harness.database.execute("update revision_home set system_identifier = 'another cluster'")
    harness.kill()
    command = await harness.send(catalogue.CMD_DOMAIN_REGISTER, registration(domain_name()))
    stored = "select count(*) from inbox where message_id = $1"
    await until(lambda: harness.database.fetchval(stored, command), "the command is in the inbox")
    # Longer than a database that was never elsewhere waits (revision_seconds).
    await until(lambda: harness.silences >= 6, "edge_sync was asked again and again")
    assert not await harness.database.fetchval(
        "select count(*) from history where command_id = $1", command
    )
    harness.max_revision = highest
    settled = await harness.settled(command)
    assert settled.revision is not None and settled.revision > highest
    await harness.ready()


async def test_a_domain_that_cannot_be_read_stops_no_other_and_its_command_is_a_dead_letter(
    harness: ConfigHarness,
) -> None:
    broken, others = domain_name("broken"), [domain_name("whole") for _ in range(5)]
    for domain in (broken, *others):
        await harness.register(domain)
    await harness.database.execute(
        "update domains set service_type = 'of another version' where name = $1", broken
    )
    commands = [await harness.disable(domain) for domain in (broken, *others)]
    settled = [await harness.settled(command) for command in commands]
    assert [one.codes for one in settled] == [["service.busy"], *[[] for _ in others]]
    letter = await harness.until_dead_letter(commands[0])
    assert letter.reason == "unexpected: ValueError"
    one = OneDead(sequence=letter.sequence)
    with pytest.raises(Refused, match=r"dead\.settled"):
        await harness.ask(catalogue.RPC_DEAD_REPLAY["config"], one, "operator")
    assert await harness.ask(catalogue.RPC_DEAD_SHOW["config"], one, "operator") == letter
    await harness.database.execute(
        "update domains set service_type = 'video' where name = $1", broken
    )


async def test_a_library_command_that_cannot_be_run_ends_under_no_domain(
    harness: ConfigHarness,
) -> None:
    account = f"broken-{new_id()[:8]}"
    await harness.database.execute(
        "insert into roots (account, roots, set_at) values ($1, '[{}]', now())", account
    )
    command = await harness.send(
        catalogue.CMD_ROOTS_SET, SetRoots(account=account, roots=Authority.create().pem)
    )
    settled = await harness.settled(command)
    assert (settled.codes, settled.domain, settled.certificate) == (["service.busy"], None, None)
    assert (
        await harness.database.fetchval("select domain from history where command_id = $1", command)
        == ""
    )
