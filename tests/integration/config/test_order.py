"""What waits, what overtakes, what comes too late, and what comes twice."""

from __future__ import annotations

import asyncio

from shared import catalogue
from shared.contracts.commands import ChangeSettings, DisableHttps, RedirectChange
from shared.contracts.domains import DomainState, Outcome
from shared.contracts.queries import ShowHistory
from shared.crypto.signing import Signer
from shared.ids import new_id
from tests.integration.config.harness import SEALED_BOX, ConfigHarness, domain_name
from tests.support.factories import ACCOUNT
from tests.support.waiting import until


async def test_a_later_submission_overtakes_the_one_that_is_being_judged(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    first = await harness.submit(domain)
    question = await harness.until_asked(first)
    second = await harness.submit(domain)
    assert (await harness.settled(first)).outcome is Outcome.SUPERSEDED
    await harness.verdict(question, pairs=[harness.pair(domain, name="late")])
    await harness.verdict(
        await harness.until_asked(second), pairs=[harness.pair(domain, name="second")]
    )
    assert (await harness.settled(second)).outcome is Outcome.APPLIED
    assert (await harness.bundle(domain)).pairs[0].pair_id == "pair-second"


async def test_a_change_of_settings_waits_for_the_verdict_before_it(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    change = await harness.send(
        catalogue.CMD_SETTINGS_CHANGE,
        ChangeSettings(domain=domain, account=ACCOUNT, redirect=RedirectChange(mode="to_https")),
    )
    await harness.settled(await harness.disable(domain_name()))
    assert not harness.events_of(catalogue.EVENT_COMMAND_SETTLED, change)
    await harness.verdict(question, pairs=[harness.pair(domain)])
    applied, changed = await harness.settled(submission), await harness.settled(change)
    assert (applied.outcome, changed.outcome) == (Outcome.APPLIED, Outcome.APPLIED)
    assert (
        applied.revision is not None
        and changed.revision is not None
        and changed.revision > applied.revision
    )


async def test_a_disable_overtakes_and_no_verdict_brings_the_pair_back(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    await harness.enable(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    disable = await harness.disable(domain)
    assert (await harness.settled(disable)).outcome is Outcome.APPLIED
    assert (await harness.settled(submission)).outcome is Outcome.SUPERSEDED
    await harness.verdict(question, pairs=[harness.pair(domain)])
    await harness.settled(await harness.disable(domain))
    assert (await harness.show(domain)).state is DomainState.DISABLED


async def test_a_disable_of_another_account_overtakes_nothing(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    foreign = await harness.disable(domain, account="mallory")
    await harness.verdict(question, pairs=[harness.pair(domain)])
    assert (await harness.settled(submission)).outcome is Outcome.APPLIED
    assert (await harness.settled(foreign)).codes == ["domain.unknown"]


async def test_without_a_verdict_in_time_a_submission_is_undecided_and_a_late_verdict_is_dropped(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    settled = await harness.settled(submission)
    assert (settled.outcome, settled.codes) == (Outcome.UNDECIDED, ["submission.undecided"])
    await harness.verdict(question, pairs=[harness.pair(domain)])
    view = await harness.show(domain)
    assert (view.state, view.pending_submission) == (DomainState.DISABLED, None)


async def test_the_same_command_twice_is_done_once(harness: ConfigHarness) -> None:
    domain, identity = domain_name(), new_id()
    await harness.register(domain)
    await harness.enable(domain)
    body = DisableHttps(domain=domain, account=ACCOUNT).encode()
    for copy in range(3):
        await harness.publish_raw(
            "platform",
            catalogue.CMD_HTTPS_DISABLE,
            body,
            {"ce-id": identity, "Nats-Msg-Id": f"{identity}-{copy}"},
        )
    await harness.settled(identity)
    await harness.register(domain)
    history = await harness.ask(catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain))
    assert [entry.command_id for entry in history.entries].count(identity) == 1
    assert len(harness.events_of(catalogue.EVENT_COMMAND_SETTLED, identity)) == 1


async def test_the_same_id_with_another_content_is_a_dead_letter_and_changes_nothing(
    harness: ConfigHarness,
) -> None:
    domain, identity = domain_name(), new_id()
    await harness.register(domain)
    await harness.send(
        catalogue.CMD_HTTPS_DISABLE, DisableHttps(domain=domain, account=ACCOUNT), id=identity
    )
    await harness.settled(identity)
    await harness.send(
        catalogue.CMD_HTTPS_DISABLE, DisableHttps(domain=domain, account="other"), id=identity
    )
    letter = await harness.until_dead_letter(identity)
    assert letter.reason.startswith("id_conflict")
    assert (await harness.settled(await harness.disable(domain))).outcome is Outcome.UNCHANGED


async def test_poison_goes_to_dead_and_the_commands_around_it_are_done(
    harness: ConfigHarness,
) -> None:
    marks = [new_id() for _ in range(3)]
    await harness.publish_raw(
        "platform", catalogue.CMD_HTTPS_DISABLE, b"{not json", {"ce-id": marks[0]}
    )
    await harness.publish_raw(
        "platform", catalogue.CMD_HTTPS_DISABLE, b'{"domain": "a.example.com"}', {"ce-id": marks[1]}
    )
    await harness.publish_raw(
        "platform",
        catalogue.CMD_HTTPS_DISABLE,
        DisableHttps(domain="a.b.com", account=f"acc-{marks[2]}").encode(),
    )
    good = await harness.register(domain_name())
    assert good.outcome is Outcome.APPLIED
    for mark in marks[:2]:
        assert (await harness.until_dead_letter(mark)).reason.startswith("malformed")
    assert "ce-id" in (await harness.until_dead_letter("ce-id is missing")).reason


async def test_the_body_of_a_command_that_carried_a_pair_is_in_no_dead_letter(
    harness: ConfigHarness,
) -> None:
    mark = new_id()
    await harness.publish_raw(
        "platform",
        catalogue.CMD_CERTIFICATE_SUBMIT,
        b'{"domain": "a.example.com", "box": "c2VjcmV0"}',
        {"ce-id": mark},
    )
    assert (await harness.until_dead_letter(mark)).body is None


async def test_a_verdict_that_nobody_vouches_for_is_a_dead_letter(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    await harness.verdict(
        question, pairs=[harness.pair(domain, signer=Signer.generate("validator-1"))]
    )
    await harness.until_dead_letter("unsigned")
    other = harness.pair(domain_name(), name=new_id())
    await harness.verdict(question, pairs=[other])
    await harness.verdict(question, pairs=[harness.pair(domain)])
    assert (await harness.settled(submission)).outcome is Outcome.APPLIED
    assert (await harness.bundle(domain)).pairs[0].pair_id != other.pair_id


async def test_no_table_keeps_the_submitted_pair_once_it_is_decided(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    await harness.verdict(await harness.until_asked(submission))
    await harness.settled(submission)

    async def bodies() -> int:
        count = await harness.database.fetchval(
            "select (select count(*) from inbox where message_id = $1 and body is not null)"
            " + (select count(*) from outbox where position(convert_to($2, 'UTF8') in body) > 0)",
            submission,
            SEALED_BOX,
        )
        return int(count)

    async def none_left() -> bool:
        return await bodies() == 0

    await until(none_left, "every body is gone")


async def test_two_replicas_run_each_command_once_and_each_domain_in_order(
    harness: ConfigHarness,
) -> None:
    await harness.start("config-2")
    domains = [domain_name("pair") for _ in range(6)]
    for domain in domains:
        await harness.register(domain)
        await harness.enable(domain)
    sent: dict[str, list[str]] = {domain: [] for domain in domains}
    for number in range(30):
        mode = ("to_https", "off")[number % 2]
        for domain in domains:
            change = ChangeSettings(
                domain=domain, account=ACCOUNT, redirect=RedirectChange(mode=mode)
            )
            sent[domain].append(await harness.send(catalogue.CMD_SETTINGS_CHANGE, change))
    for domain in domains:
        settled = await asyncio.gather(*(harness.settled(command) for command in sent[domain]))
        assert {one.outcome for one in settled} == {Outcome.APPLIED}
        revisions = [one.revision for one in settled]
        assert revisions == sorted(set(revisions))  # type: ignore[type-var]
        history = await harness.ask(
            catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain, limit=30)
        )
        assert [entry.command_id for entry in reversed(history.entries)] == sent[domain]
    for commands in sent.values():
        for command in commands:
            assert len(harness.events_of(catalogue.EVENT_COMMAND_SETTLED, command)) == 1
