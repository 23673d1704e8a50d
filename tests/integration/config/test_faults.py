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
from tests.integration.config.harness import ACCOUNT, Stage, name
from tests.support.pki import Authority
from tests.support.waiting import until


def registration(domain: str) -> RegisterDomain:
    origin = Origin(scheme="https", host="origin.example.com", port=443)
    return RegisterDomain(
        domain=domain, account=ACCOUNT, service_type=ServiceType.DOWNLOAD, origin=origin
    )


async def test_a_message_that_was_committed_and_not_yet_published_goes_out_after_a_kill(
    staged: Stage,
) -> None:
    domain = name()

    async def nobody_relays() -> bool:
        """Somebody who never gives it back holds the lease: what is committed stays unsent."""
        await staged.database.execute(
            "update leases set holder = 'test', expires_at = now() + interval '1 hour' where "
            "name = 'outbox'"
        )
        probe = await staged.disable(name())
        age = (
            "select extract(epoch from clock_timestamp() - created_at) from outbox where "
            "sent_at is null"
        )
        await until(
            lambda: staged.database.fetchval(
                "select count(*) from history where command_id = $1", probe
            ),
            "the probe is decided",
        )
        return bool((await staged.database.fetchval(f"{age} order by id limit 1") or 0) > 1)

    await until(nobody_relays, "no process relays", limit=20)
    command = await staged.send(catalogue.CMD_DOMAIN_REGISTER, registration(domain))
    await until(
        lambda: staged.database.fetchval("select count(*) from domains where name = $1", domain),
        "it is committed",
    )
    staged.kill()
    assert not staged.said(catalogue.EVENT_COMMAND_SETTLED, command)
    await staged.database.execute("update leases set expires_at = now() where name = 'outbox'")
    assert (await staged.settled(command)).outcome is Outcome.APPLIED
    assert len(staged.said(catalogue.EVENT_DOMAIN_REGISTERED, command)) == 1
    await staged.ready()


async def test_commands_sent_while_every_process_is_killed_again_and_again_are_each_done_once(
    staged: Stage,
) -> None:
    domains = [name("kill") for _ in range(40)]
    sent = []
    for number, domain in enumerate(domains):
        sent.append(await staged.send(catalogue.CMD_DOMAIN_REGISTER, registration(domain)))
        if number % 15 == 7:
            await staged.ready()
            staged.kill()
    for command in sent:
        assert (await staged.settled(command)).outcome is Outcome.APPLIED
    for command in sent:
        assert len(staged.said(catalogue.EVENT_DOMAIN_REGISTERED, command)) == 1
    await staged.ready()


async def test_a_submission_outlives_the_death_of_broker_and_database(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    staged.backend.kill("nats")
    staged.backend.kill("postgres")
    await staged.verdict(question, pairs=[staged.pair(domain)])
    assert (await staged.settled(submission)).outcome is Outcome.APPLIED
    await staged.ready()
    assert (await staged.show(domain)).state is DomainState.ENABLED


async def test_a_stream_that_was_made_anew_counts_from_one_and_its_commands_run(
    staged: Stage,
) -> None:
    before = await staged.register(name())
    admin = (await staged.backend.client("stream_admin")).jetstream(timeout=10)
    await admin.delete_stream(s.STREAM_COMMANDS_CONFIG)
    await topology.apply(admin)
    domain = name()
    after = await staged.register(domain)
    assert (
        after.revision is not None
        and before.revision is not None
        and after.revision > before.revision
    )
    assert (
        await staged.database.fetchval(
            "select count(*) from inbox_streams where stream = $1", s.STREAM_COMMANDS_CONFIG
        )
        >= 2
    )


async def test_what_every_node_serves_is_shown_and_an_older_word_of_it_is_not_taken_back(
    staged: Stage,
) -> None:
    domain = name()
    await staged.register(domain)
    live = await staged.enable(domain)
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
        await staged.send(catalogue.EVENT_EDGE_CONVERGED, event, user="edge_sync")

    async def shown() -> bool:
        return (await staged.show(domain)).live_revision == live.revision

    await until(shown, "the live revision is shown")


async def test_a_restart_moves_past_the_highest_revision_of_the_fleet(staged: Stage) -> None:
    highest = int(await staged.database.fetchval("select last_value from revision")) + 10_000
    staged.max_revision = highest
    staged.kill()

    async def moved() -> bool:
        return bool(
            await staged.database.fetchval("select last_value >= $1 from revision", highest)
        )

    await until(moved, "the sequence moved")
    await staged.ready()
    settled = await staged.register(name())
    assert settled.revision is not None and settled.revision > highest


async def test_a_restored_database_decides_nothing_until_the_fleet_named_its_highest_revision(
    staged: Stage,
) -> None:
    highest = int(await staged.database.fetchval("select last_value from revision")) + 10_000
    staged.max_revision = None
    await staged.database.execute("update revision_home set system_identifier = 'another cluster'")
    staged.kill()
    command = await staged.send(catalogue.CMD_DOMAIN_REGISTER, registration(name()))
    stored = "select count(*) from inbox where message_id = $1"
    await until(
        lambda: staged.database.fetchval(stored, command), "the command is in the inbox", limit=20
    )
    # Longer than a database that was never elsewhere waits (revision_seconds).
    await until(lambda: staged.silences >= 6, "edge_sync was asked again and again", limit=20)
    assert not await staged.database.fetchval(
        "select count(*) from history where command_id = $1", command
    )
    staged.max_revision = highest
    settled = await staged.settled(command)
    assert settled.revision is not None and settled.revision > highest
    await staged.ready()


async def test_a_domain_that_cannot_be_read_stops_no_other_and_its_command_is_a_dead_letter(
    staged: Stage,
) -> None:
    broken, others = name("broken"), [name("whole") for _ in range(5)]
    for domain in (broken, *others):
        await staged.register(domain)
    await staged.database.execute(
        "update domains set service_type = 'of another version' where name = $1", broken
    )
    commands = [await staged.disable(domain) for domain in (broken, *others)]
    settled = [await staged.settled(command) for command in commands]
    assert [one.codes for one in settled] == [["service.busy"], *[[] for _ in others]]
    letter = await staged.until_dead(commands[0])
    assert letter.reason == "unexpected: ValueError"
    one = OneDead(sequence=letter.sequence)
    with pytest.raises(Refused, match=r"dead\.settled"):
        await staged.ask(catalogue.RPC_DEAD_REPLAY["config"], one, "operator")
    assert await staged.ask(catalogue.RPC_DEAD_SHOW["config"], one, "operator") == letter
    await staged.database.execute(
        "update domains set service_type = 'video' where name = $1", broken
    )


async def test_a_library_command_that_cannot_be_run_ends_under_no_domain(staged: Stage) -> None:
    account = f"broken-{new_id()[:8]}"
    await staged.database.execute(
        "insert into roots (account, roots, set_at) values ($1, '[{}]', now())", account
    )
    command = await staged.send(
        catalogue.CMD_ROOTS_SET, SetRoots(account=account, roots=Authority.create().pem)
    )
    settled = await staged.settled(command)
    assert (settled.codes, settled.domain, settled.certificate) == (["service.busy"], None, None)
    assert (
        await staged.database.fetchval("select domain from history where command_id = $1", command)
        == ""
    )
