"""What waits, what overtakes, what comes too late, and what comes twice."""

from __future__ import annotations

import asyncio

from shared import catalogue
from shared.contracts.commands import ChangeSettings, DisableHttps, RedirectChange
from shared.contracts.domains import DomainState, Outcome
from shared.contracts.queries import ShowHistory
from shared.crypto.signing import Signer
from shared.ids import new_id
from tests.integration.config.harness import ACCOUNT, CANARY, Stage, name
from tests.support.waiting import until


async def test_a_later_submission_overtakes_the_one_that_is_being_judged(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    first = await staged.submit(domain)
    question = await staged.asked(first)
    second = await staged.submit(domain)
    assert (await staged.settled(first)).outcome is Outcome.SUPERSEDED
    await staged.verdict(question, pairs=[staged.pair(domain, name="late")])
    await staged.verdict(await staged.asked(second), pairs=[staged.pair(domain, name="second")])
    assert (await staged.settled(second)).outcome is Outcome.APPLIED
    assert (await staged.bundle(domain)).pairs[0].pair_id == "pair-second"


async def test_a_change_of_settings_waits_for_the_verdict_before_it(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    change = await staged.send(
        catalogue.CMD_SETTINGS_CHANGE,
        ChangeSettings(domain=domain, account=ACCOUNT, redirect=RedirectChange(mode="to_https")),
    )
    await staged.settled(await staged.disable(name()))
    assert not staged.said(catalogue.EVENT_COMMAND_SETTLED, change)
    await staged.verdict(question, pairs=[staged.pair(domain)])
    applied, changed = await staged.settled(submission), await staged.settled(change)
    assert (applied.outcome, changed.outcome) == (Outcome.APPLIED, Outcome.APPLIED)
    assert (
        applied.revision is not None
        and changed.revision is not None
        and changed.revision > applied.revision
    )


async def test_a_disable_overtakes_and_no_verdict_brings_the_pair_back(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    await staged.enable(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    disable = await staged.disable(domain)
    assert (await staged.settled(disable)).outcome is Outcome.APPLIED
    assert (await staged.settled(submission)).outcome is Outcome.SUPERSEDED
    await staged.verdict(question, pairs=[staged.pair(domain)])
    await staged.settled(await staged.disable(domain))
    assert (await staged.show(domain)).state is DomainState.DISABLED


async def test_a_disable_of_another_account_overtakes_nothing(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    foreign = await staged.disable(domain, account="mallory")
    await staged.verdict(question, pairs=[staged.pair(domain)])
    assert (await staged.settled(submission)).outcome is Outcome.APPLIED
    assert (await staged.settled(foreign)).codes == ["domain.unknown"]


async def test_without_a_verdict_in_time_a_submission_is_undecided_and_a_late_verdict_is_dropped(
    staged: Stage,
) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    settled = await staged.settled(submission)
    assert (settled.outcome, settled.codes) == (Outcome.UNDECIDED, ["submission.undecided"])
    await staged.verdict(question, pairs=[staged.pair(domain)])
    view = await staged.show(domain)
    assert (view.state, view.pending_submission) == (DomainState.DISABLED, None)


async def test_the_same_command_twice_is_done_once(staged: Stage) -> None:
    domain, identity = name(), new_id()
    await staged.register(domain)
    await staged.enable(domain)
    body = DisableHttps(domain=domain, account=ACCOUNT).encode()
    for copy in range(3):
        await staged.raw(
            catalogue.CMD_HTTPS_DISABLE,
            body,
            {"ce-id": identity, "Nats-Msg-Id": f"{identity}-{copy}"},
        )
    await staged.settled(identity)
    await staged.register(domain)
    history = await staged.ask(catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain))
    assert [entry.command_id for entry in history.entries].count(identity) == 1
    assert len(staged.said(catalogue.EVENT_COMMAND_SETTLED, identity)) == 1


async def test_the_same_id_with_another_content_is_a_dead_letter_and_changes_nothing(
    staged: Stage,
) -> None:
    domain, identity = name(), new_id()
    await staged.register(domain)
    await staged.send(
        catalogue.CMD_HTTPS_DISABLE, DisableHttps(domain=domain, account=ACCOUNT), id=identity
    )
    await staged.settled(identity)
    await staged.send(
        catalogue.CMD_HTTPS_DISABLE, DisableHttps(domain=domain, account="other"), id=identity
    )
    letter = await staged.until_dead(identity)
    assert letter.reason.startswith("id_conflict")
    assert (await staged.settled(await staged.disable(domain))).outcome is Outcome.UNCHANGED


async def test_poison_goes_to_dead_and_the_commands_around_it_are_done(staged: Stage) -> None:
    marks = [new_id() for _ in range(3)]
    await staged.raw(catalogue.CMD_HTTPS_DISABLE, b"{not json", {"ce-id": marks[0]})
    await staged.raw(
        catalogue.CMD_HTTPS_DISABLE, b'{"domain": "a.example.com"}', {"ce-id": marks[1]}
    )
    await staged.raw(
        catalogue.CMD_HTTPS_DISABLE,
        DisableHttps(domain="a.b.com", account=f"acc-{marks[2]}").encode(),
    )
    good = await staged.register(name())
    assert good.outcome is Outcome.APPLIED
    for mark in marks[:2]:
        assert (await staged.until_dead(mark)).reason.startswith("malformed")
    assert "ce-id" in (await staged.until_dead("ce-id is missing")).reason


async def test_the_body_of_a_command_that_carried_a_pair_is_in_no_dead_letter(
    staged: Stage,
) -> None:
    mark = new_id()
    await staged.raw(
        catalogue.CMD_CERTIFICATE_SUBMIT,
        b'{"domain": "a.example.com", "box": "c2VjcmV0"}',
        {"ce-id": mark},
    )
    assert (await staged.until_dead(mark)).body is None


async def test_a_verdict_that_nobody_vouches_for_is_a_dead_letter(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    await staged.verdict(
        question, pairs=[staged.pair(domain, signer=Signer.generate("validator-1"))]
    )
    await staged.until_dead("unsigned")
    other = staged.pair(name(), name=new_id())
    await staged.verdict(question, pairs=[other])
    await staged.verdict(question, pairs=[staged.pair(domain)])
    assert (await staged.settled(submission)).outcome is Outcome.APPLIED
    assert (await staged.bundle(domain)).pairs[0].pair_id != other.pair_id


async def test_no_table_keeps_the_submitted_pair_once_it_is_decided(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    await staged.verdict(await staged.asked(submission))
    await staged.settled(submission)

    async def bodies() -> int:
        count = await staged.database.fetchval(
            "select (select count(*) from inbox where message_id = $1 and body is not null)"
            " + (select count(*) from outbox where position(convert_to($2, 'UTF8') in body) > 0)",
            submission,
            CANARY,
        )
        return int(count)

    async def none_left() -> bool:
        return await bodies() == 0

    await until(none_left, "every body is gone")


async def test_two_replicas_run_each_command_once_and_each_domain_in_order(staged: Stage) -> None:
    await staged.start("config-2")
    domains = [name("pair") for _ in range(6)]
    for domain in domains:
        await staged.register(domain)
        await staged.enable(domain)
    sent: dict[str, list[str]] = {domain: [] for domain in domains}
    for number in range(30):
        mode = ("to_https", "off")[number % 2]
        for domain in domains:
            change = ChangeSettings(
                domain=domain, account=ACCOUNT, redirect=RedirectChange(mode=mode)
            )
            sent[domain].append(await staged.send(catalogue.CMD_SETTINGS_CHANGE, change))
    for domain in domains:
        settled = await asyncio.gather(*(staged.settled(command) for command in sent[domain]))
        assert {one.outcome for one in settled} == {Outcome.APPLIED}
        revisions = [one.revision for one in settled]
        assert revisions == sorted(set(revisions))  # type: ignore[type-var]
        history = await staged.ask(
            catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain, limit=30)
        )
        assert [entry.command_id for entry in reversed(history.entries)] == sent[domain]
    for commands in sent.values():
        for command in commands:
            assert len(staged.said(catalogue.EVENT_COMMAND_SETTLED, command)) == 1
